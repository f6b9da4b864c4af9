"""Reads the files that W&B keeps of a run back, record by record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Kept:
    """What stands in one .wandb file."""

    id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    def curve(self, name: str) -> list[tuple[int, float]]:
        """The points of one curve over the epoch."""
        return [(row["epoch"], row[name]) for row in self.history if name in row]


def read(path: Path) -> Kept:
    """The run in one .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, kept = DataStore(), Kept()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        take(kept, record)
    return kept


def take(kept: Kept, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        kept.id, kept.group, kept.job_type = run.run_id, run.run_group, run.job_type
        kept.name, kept.project = run.display_name, run.project
        kept.config |= {update.key: json.loads(update.value_json) for update in run.config.update}
    elif kind == "history":
        kept.history.append(items(record.history.item))
    elif kind == "summary":
        kept.summary |= items(record.summary.update)
    elif kind == "artifact":
        kept.artifacts.append(record.artifact)
    elif kind == "exit":
        kept.exit_code = record.exit.exit_code


def items(pairs: Any) -> dict[str, Any]:
    return {".".join(pair.nested_key) or pair.key: json.loads(pair.value_json) for pair in pairs}


def runs(folder: Path) -> list[Kept]:
    """All the runs kept within a folder, in the order of their ids."""
    return sorted((read(path) for path in (folder / "wandb").glob("*run-*/*.wandb")), key=lambda kept: kept.id)
