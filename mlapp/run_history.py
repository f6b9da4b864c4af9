"""The runs in the experiments area: found by name, and read as far as each got."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from upath import UPath

from mlapp import origins, run_record, storage
from mlapp.errors import UserError
from mlapp.origins import Origins, Setting
from mlapp.result import Metric
from mlapp.run_record import StageRecord

LATEST = "latest"
CONFIG, SUMMARY = "config.json", "summary.json"
FILES = (CONFIG, origins.ORIGINS, SUMMARY, run_record.RECORD)
STOPPED_SHORT = ("failed", "stopped", "broken off")


@dataclass(frozen=True)
class Run:
    """One run's folder, with what of it could not be read."""

    folder: UPath
    origins: Origins | None
    settings: dict[str, Any]
    stages: list[StageRecord]
    done: bool
    damage: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its folder's name."""
        return str(self.folder.name)

    @property
    def when(self) -> datetime | None:
        """When it was configured, or its first stage began."""
        told = [self.origins.configured] if self.origins else [stage.began for stage in self.stages]
        return min(map(datetime.fromisoformat, told)) if told else None

    @property
    def preset(self) -> str:
        """The preset's name, or the file's without its folder."""
        return self.origins.preset.rpartition("/")[2] if self.origins else ""

    @property
    def state(self) -> str:
        """How far it got, in a few words."""
        if self.done:
            return "done"
        if not self.stages:
            return "damaged" if self.damage else "configured"
        last = self.last
        now = last.state_now
        if now in STOPPED_SHORT:
            return f"{now} at {last.stage}" if now == "broken off" else f"{last.stage} {now}"
        return f"{last.stage} runs" if now == "running" else f"ended at {last.stage}"

    @property
    def last(self) -> StageRecord:
        """The stage that tells how the run stands: one that is at work or fell short, else the last that began."""
        open_ones = [stage for stage in self.stages if stage.state_now in (*STOPPED_SHORT, "running")]
        return (open_ones or self.stages)[-1]

    @property
    def seconds(self) -> float:
        """What its own stages took; reused results took nothing."""
        return sum(stage.timings.get("wall_s", 0.0) for stage in self.stages if stage.state == "done")

    @property
    def verdict(self) -> str:
        """Promote, hold or reject; empty where nothing was vetted."""
        vetted = self.stage("vet")
        return vetted.headline.partition(":")[0] if vetted else ""

    def accuracy(self, who: str) -> tuple[Metric | None, bool]:
        """Accuracy of the ``teacher`` or the ``challenger``, and whether it is on the test split (else validation)."""
        vetted = self.stage("vet")
        if vetted and f"{who}.test_accuracy" in vetted.metrics:
            return vetted.metrics[f"{who}.test_accuracy"], True
        stage, metric = {
            "teacher": ("train", "float32.validation_accuracy"),
            "challenger": ("choose", "validation_accuracy"),
        }[who]
        chosen = self.stage(stage)
        return (chosen.metrics.get(metric) if chosen else None), False

    def stage(self, name: str) -> StageRecord | None:
        """The last finished stage of this name."""
        found = [stage for stage in self.stages if stage.stage == name and stage.state in ("done", "reused")]
        return found[-1] if found else None

    def changed(self) -> dict[str, Setting]:
        """The settings that are not at their defaults, with their origins."""
        return self.origins.changed() if self.origins else {}


def read(folder: UPath) -> Run:
    """A run, whatever state its folder is in."""
    damage = []
    told: Origins | None = None
    try:
        told = origins.read(folder)
    except UserError:
        damage.append(origins.ORIGINS)
    stages, unread = run_record.read(folder)
    settings = {name: setting.value for name, setting in told.settings.items()} if told else _settings(folder, damage)
    return Run(folder, told, settings, stages, (folder / SUMMARY).exists(), [*damage, *unread])


def read_all(area: str) -> list[Run]:
    """Every run in the experiments area, the newest first; a `UserError` if there is no such area."""
    folder = storage.at(area)
    local = storage.fetch_named(folder, FILES)
    if not local.is_dir() or (local != folder and not any(local.iterdir())):
        raise storage.missing(folder, f"no experiments at {folder}: give --experiments URI, or run something first")
    runs = [
        replace(read(place), folder=folder / place.name)
        for place in local.iterdir()
        if place.is_dir() and not place.name.startswith(".")
    ]
    return sorted(runs, key=lambda run: (run.when or datetime.min.replace(tzinfo=UTC), run.name), reverse=True)


def find(runs: list[Run], name: str, area: str) -> Run:
    """The run of this name, of this beginning of a name, or the ``latest``; a `UserError` tells what is near."""
    if not runs:
        raise UserError(f"no runs at {storage.at(area)}: run something first")
    if name == LATEST:
        return runs[0]
    exact = [run for run in runs if run.name == name]
    fitting = exact or [run for run in runs if run.name.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{name} fits {len(fitting)} runs: {', '.join(run.name for run in fitting[:5])}")
    names = [run.name for run in runs]
    near = difflib.get_close_matches(name, [LATEST, *names], n=1, cutoff=0.3) or names[:1]
    raise UserError(f"no run {name!r} in {storage.at(area)}: did you mean {near[0]}?")


def _settings(folder: UPath, damage: list[str]) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        return origins.dotted(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        damage.append(CONFIG)
        return {}
