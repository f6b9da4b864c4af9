"""The runs in the experiments area: found by name, and read as far as each got."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from os.path import isfile
from typing import Any

from upath import UPath

from mlapp import origins, plain, run_record, small_file, storage
from mlapp.data_digest import data_digest
from mlapp.errors import UserError
from mlapp.origins import Origins, Setting
from mlapp.result import Metric
from mlapp.run_record import StageRecord

LATEST = "latest"
CONFIG, SUMMARY = "config.json", "summary.json"
FILES = (CONFIG, origins.ORIGINS, SUMMARY, run_record.RECORD)
STOPPED_SHORT = ("failed", "stopped", "broken off")
# What `promote` says first, and what that came to. A person who was asked may reject what the verdict would promote.
DECIDED = (
    ("promoted", "promoted"),
    ("already", "already champion"),
    (r"reject|hold \(rejected by", "rejected"),
    ("hold", "held"),
)


@dataclass(frozen=True)
class Run:
    """One run's folder, with what of it could not be read."""

    folder: UPath
    origins: Origins | None
    settings: dict[str, Any]
    stages: list[StageRecord]
    done: bool
    damage: list[str] = field(default_factory=list)
    copied: UPath | None = None

    @property
    def read_from(self) -> UPath:
        """Where its files are read: its folder, or a copy of it."""
        return self.copied or self.folder

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
        """What its own stages took, those that fell short too; reused results took nothing."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def model(self) -> str:
        """The name of its model in the registry."""
        named = self.stage("promote") or self.stage("vet")
        return str((named and named.config.get("name")) or self.settings.get("promotion.name") or self.data)

    @property
    def data(self) -> str:
        """The name of its data set."""
        return str(self.settings.get("data.name") or "")

    @property
    def data_digest(self) -> str:
        """The digest of its data's content; empty where it did not get to its data."""
        prepared = self.stage("transform")
        if not prepared:
            return ""
        path = self.read_from / run_record.STAGES / prepared.folder_name / "dataset.json"
        try:
            return data_digest(plain.from_json(small_file.written(path)))
        except (OSError, UserError, ValueError, LookupError, TypeError, AttributeError):
            return ""

    @property
    def verdict(self) -> str:
        """Promote, hold or reject; empty where nothing was vetted."""
        vetted = self.stage("vet")
        return vetted.headline.partition(":")[0] if vetted else ""

    @property
    def outcome(self) -> str:
        """What came of it: of the model once that was decided, else of the run."""
        if moved := self.stage("promote"):
            return next((told for begins, told in DECIDED if re.match(begins, moved.headline)), moved.headline)
        if self.stages and not self.done:
            now = self.last.state_now
            return {"broken off": "stopped"}.get(now, now) if now in (*STOPPED_SHORT, "running") else "unfinished"
        if self.stage("vet"):
            return "vetted"
        return "done" if self.done else "damaged" if self.damage else "configured"

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
    return Run(folder, told, settings, stages, isfile(f"{folder}/{SUMMARY}"), [*damage, *unread])


def read_named(area: str, name: str) -> Run:
    """One run of the experiments area, by its full name."""
    folder = storage.at(area) / name
    return at_home(read(storage.fetch_named(folder, (*FILES, "dataset.json"))), folder)


def at_home(run: Run, folder: UPath) -> Run:
    """A run that was read from a copy, with the folder that it was copied from."""
    return replace(run, folder=folder, copied=run.folder)


def read_each(area: str) -> Iterator[Run]:
    """Every run in the experiments area, one at a time; a `UserError` if there is no such area."""
    return (read_named(area, name) for name in names(area))


def names(area: str) -> list[str]:
    """The names of the runs in the experiments area; a `UserError` if there is no such area."""
    folder = storage.at(area)
    found = [str(place.name) for place in folder.iterdir() if place.is_dir()] if folder.is_dir() else []
    if not found and not (storage.is_local(folder) and folder.is_dir()):
        raise no_area(folder)
    return [name for name in found if is_name(name)]


def is_name(name: str) -> bool:
    """Whether a folder of this name may be a run's: not a hidden one, nor one whose name is not UTF-8."""
    return not (name.startswith(".") or plain.HALF.search(name))


def no_area(folder: UPath) -> UserError:
    """What to say where there are no runs."""
    return storage.missing(folder, f"no experiments at {folder}: give --experiments URI, or run something first")


def find(names: Sequence[str], name: str, area: str) -> str:
    """The full name of a run by its name, the beginning of it, or ``latest``; a `UserError` says what is near.

    ``names`` are those of all runs, the newest first.
    """
    if not names:
        raise UserError(f"no runs at {storage.at(area)}: run something first")
    if name == LATEST:
        return names[0]
    fitting = [run for run in names if run == name] or [run for run in names if run.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{name} fits {len(fitting)} runs: {', '.join(fitting[:5])}")
    near = difflib.get_close_matches(name, [LATEST, *names], n=1, cutoff=0.3) or names[:1]
    raise UserError(f"no run {name!r} in {storage.at(area)}: did you mean {near[0]}?")


def _settings(folder: UPath, damage: list[str]) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        return origins.dotted(plain.from_json(small_file.written(path)))
    except FileNotFoundError:
        return {}
    except (UserError, ValueError, AttributeError):
        damage.append(CONFIG)
        return {}
