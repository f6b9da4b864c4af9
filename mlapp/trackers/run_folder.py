"""The run's own folder: what each stage was and what came of it, in files that a person can read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import run_record, storage
from mlapp.result import StageResult
from mlapp.run_record import HISTORY, StageRecord, State
from mlapp.tracking import Tracker, was_stopped

READABLE = (".json", ".csv", ".txt", ".md", ".html", ".png")
LARGEST_COPY = 1_000_000


class RunFolder(Tracker):
    """Keeps a stage's record up to date, from its beginning on: also of a run that does not get far."""

    def __init__(self, folder: UPath, stage: str) -> None:
        self.folder = folder
        self._record = StageRecord(stage=stage, began=_now(), process=run_record.this_process())

    def began(self, stage: str, key: str, config: Mapping[str, Any]) -> None:
        """The record says that the stage runs."""
        self._note("running", key=key, config=dict(config))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """A line of the curves. Kept only where that is an append to a file: a remote one comes with the end."""
        place = self._place
        if storage.is_local(place):
            path = Path(place.path) / HISTORY
            head = "" if path.exists() else _csv([["epoch", *figures]])
            with path.open("a", encoding="utf-8") as stream:
                stream.write(head + _csv([[number, *figures.values()]]))

    def reused(self, result: StageResult) -> None:
        """The earlier result, as one of this run."""
        self._take(result, "reused")

    def ended(self, result: StageResult) -> None:
        """The result, and copies of what of it can be read."""
        self._take(result, "done")

    def failed(self, reason: str) -> None:
        """Where the run stopped, and why."""
        state: State = "stopped" if was_stopped(reason) else "failed"
        self._note(state, reason=reason.removeprefix("UserError: ").removesuffix(": "), ended=_now())

    @property
    def _place(self) -> UPath:
        return self.folder / run_record.STAGES / self._record.folder_name

    def _take(self, result: StageResult, state: State) -> None:
        told = result.model_dump(include={"key", "headline", "timings", "config", "environment"})
        self._note(
            state, **told, metrics=result.metrics, ended=result.finished, result=result.uri, result_sha256=result.sha256
        )
        for name, artifact in result.artifacts.items():
            source = result.artifact(name)
            if source.parent == self.folder:  # the summary is there already
                continue
            if source.suffix in READABLE and artifact.bytes <= LARGEST_COPY and name != "model":
                verified = storage.at(result.local(name))
                storage.copy(verified, self._place / f"{name}{source.suffix}")
        if "history" in result.artifacts:
            storage.write_text(self._place / HISTORY, history_table(result.content("history", list[dict[str, float]])))

    def _note(self, state: State, **told: Any) -> None:
        self._record = self._record.model_copy(update={"state": state, **told})
        run_record.write(self.folder, self._record)


def history_table(history: Sequence[Mapping[str, float]]) -> str:
    """A trainer's history as CSV, one row an epoch."""
    columns = list(dict.fromkeys(name for figures in history for name in figures))
    rows = [[number, *(figures.get(name, "") for name in columns)] for number, figures in enumerate(history, start=1)]
    return _csv([["epoch", *columns], *rows])


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
