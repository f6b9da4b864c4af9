"""What a run's folder in the experiments area says of each stage: small readable copies that outlive work directories.

``stages/<stage>-<key>/stage.json`` is the `StageRecord`; beside it lie the curves (history.csv) and copies of the
stage's small readable artifacts.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from upath import UPath

from mlapp import small_file, storage
from mlapp.errors import UserError, printable
from mlapp.result import Metric, Record, Timings

RECORD, STAGES, HISTORY = "stage.json", "stages", "history.csv"
CHANGED = ".changed"  # folder of the experiments area: an empty file for each record that was written in a bucket


def _aware(moment: str) -> str:
    if datetime.fromisoformat(moment).tzinfo is None:
        raise ValueError("a time without its zone")
    return moment


Moment = Annotated[str, AfterValidator(_aware), Field(description="when, ISO 8601 in UTC")]
State = Literal["running", "done", "reused", "failed", "stopped"]


class StageRecord(Record):
    """The content of `stage.json`."""

    stage: str
    key: str = ""
    state: State = "running"
    reason: str = Field("", description="why it failed or stopped")
    headline: str = ""
    began: Moment
    ended: Moment | None = None
    result: str = Field("", description="URI of its result.json")
    result_sha256: str | None = Field(None, description="SHA-256 of that file")
    process: str = Field("", description="host and process id, to tell a running stage from one that was killed")
    metrics: dict[str, Metric] = Field(default_factory=dict)
    timings: Timings = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def folder_name(self) -> str:
        """Its folder within ``stages/``; the same for each attempt at the same work."""
        return f"{self.stage}-{self.key[:8]}" if self.key else self.stage

    @property
    def label(self) -> str:
        """The stage, with what tells it from others of its kind within one run."""
        return label(self.stage, self.config)

    @property
    def seconds(self) -> float:
        """What it took: of a result its own time, of a stage that fell short or runs the time since it began."""
        if self.state in ("done", "reused"):
            return self.timings.get("wall_s", 0.0) if self.state == "done" else 0.0
        now = datetime.now(UTC).isoformat() if self.state_now == "running" else self.began
        ended = datetime.fromisoformat(self.ended or now)
        return max(0.0, (ended - datetime.fromisoformat(self.began)).total_seconds())

    @property
    def state_now(self) -> str:
        """The state, where a stage that says it runs is looked for among the processes of this machine."""
        if self.state != "running":
            return self.state
        host, _, pid = self.process.rpartition(":")
        return "broken off" if host == socket.gethostname() and not os.path.exists(f"/proc/{pid}") else "running"


def label(stage: str, config: Mapping[str, Any]) -> str:
    """A stage's name, with what a run has several of: a student's width, a sparsity, the trainer that is tuned."""
    field = {"distill": "widths", "prune": "sparsities", "tune": "trainer"}.get(stage, "")
    told = config.get(field)
    if isinstance(told, list | tuple):
        told = "+".join(f"{value:g}" if isinstance(value, float) else str(value) for value in told)
    return f"{stage} {told}" if told else stage


def this_process() -> str:
    """The process that a record is of."""
    return f"{socket.gethostname()}:{os.getpid()}"


def write(folder: UPath, record: StageRecord) -> UPath:
    """Write a stage's record into a run's folder; returns the stage's folder there."""
    place = folder / STAGES / record.folder_name
    storage.write_text(place / RECORD, record.model_dump_json(indent=2) + "\n")
    if not storage.is_local(folder):  # where nobody can look at thousands of files for one that changed
        storage.write_text(folder.parent / CHANGED / f"{folder.name}~{uuid.uuid4().hex}", "")
    return place


def read(folder: UPath) -> tuple[list[StageRecord], list[str]]:
    """The records in a run's folder in the order in which the stages began, and what could not be read."""
    records, damaged = [], []
    stages = folder / STAGES
    try:
        places = sorted(stages.iterdir(), key=lambda path: path.name) if stages.is_dir() else []
    except PermissionError:
        return [], [STAGES]
    for place in places:
        try:
            records.append(StageRecord.model_validate_json(small_file.written(place / RECORD)))
        except (OSError, UserError, ValidationError):
            damaged.append(printable(f"{STAGES}/{place.name}"))
    return sorted(records, key=lambda record: record.began), damaged
