"""What is known of every trial of a search, kept on disk while it runs: an interrupted search goes on from there."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mlapp import storage, workspaces
from mlapp.result import Record
from mlapp.search_space import SearchSpace
from mlapp.section import Section
from mlapp.tune.space import holds

State = Literal["running", "finished", "stopped", "failed"]


class Trial(Record):
    """One point of the search space and how a training with it went. Accuracies are of the validation split."""

    number: int = Field(description="from 1, in the order of suggestion")
    parameters: dict[str, Any]
    state: State = Field("running", description="finished: trained to its end; stopped: early, it was too far behind")
    accuracies: dict[int, float] = Field(default_factory=dict, description="validation accuracy by epoch, from 1")
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    node: str = Field("", description="id of the Ray node that it ran on")
    process: int = Field(0, description="process id there")
    reason: str = Field("", description="why it failed")
    blame: Literal["", "user", "code"] = Field("", description="whether the user can mend the reason")

    @property
    def accuracy(self) -> float:
        """The best epoch's accuracy: the trainers keep that epoch. -inf if there is none."""
        return max(filter(math.isfinite, self.accuracies.values()), default=-math.inf)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state != "running"

    @property
    def usable(self) -> bool:
        """Whether its accuracy can be compared."""
        return self.state in ("finished", "stopped") and math.isfinite(self.accuracy)


class Trials:
    """The trials of one search, each in a file of its own, written whole.

    The folder is named for ``settings``, what decides the search: another search in the same place starts anew. A file
    that is no trial of this ``space`` is passed over: its parameters would be taken for settings.
    """

    def __init__(self, workdir: Path, settings: Section, space: SearchSpace) -> None:
        content = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
        self.folder = workspaces.unfinished(workdir, content, "search-")
        self.folder.mkdir(exist_ok=True)
        self._trials: dict[int, Trial] = {}
        self._begun: set[int] = set()
        for path in sorted(self.folder.glob("trial-*.json")):
            try:
                trial = Trial.model_validate_json(path.read_bytes())
            except ValidationError:  # of an older form: that trial is made again
                continue
            if path.name == _file(trial.number) and holds(space, trial.parameters) and _are_shares(trial.accuracies):
                self._trials[trial.number] = trial

    def __iter__(self) -> Any:
        return iter([self._trials[number] for number in sorted(self._trials)])

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def over(self) -> list[Trial]:
        """Those that are not made again."""
        return [trial for trial in self if trial.over]

    @property
    def interrupted(self) -> list[Trial]:
        """Those that were at work, or next, when the search was cut off."""
        return [trial for trial in self if not trial.over]

    def begun(self, parameters: dict[str, Any]) -> Trial:
        """The trial with these parameters: the interrupted one if there is one, else a new one."""
        again = (trial for trial in self.interrupted if trial.number not in self._begun)
        trial = next((trial for trial in again if trial.parameters == parameters), None)
        trial = trial or self.put(Trial(number=max(self._trials, default=0) + 1, parameters=parameters))
        self._begun.add(trial.number)
        return trial

    def put(self, trial: Trial) -> Trial:
        """Remember what is known of a trial now; its checkpoints are needed until it is known to be over.

        So are those of another trial of the same point: the sampler may repeat itself, and both keep them in one place.
        """
        self._trials[trial.number] = trial
        storage.write_text(self.folder / _file(trial.number), trial.model_dump_json(indent=2))
        workspaces.keep(self.folder, "trial-*.json")
        if trial.over and trial.parameters not in [other.parameters for other in self.interrupted]:
            shutil.rmtree(checkpoints(self.folder, trial.parameters), ignore_errors=True)
        return trial

    def forget(self) -> None:
        """Remove everything, of earlier searches in the work directory too, once the result holds it."""
        for folder in self.folder.parent.glob("search-*"):
            shutil.rmtree(folder)


def checkpoints(folder: Path, parameters: dict[str, Any]) -> Path:
    """Where in a search's folder the trial with these parameters keeps its checkpoints."""
    name = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"checkpoints-{name}"


def _file(number: int) -> str:
    return f"trial-{number:04d}.json"


def _are_shares(accuracies: Mapping[int, float]) -> bool:
    return all(0 <= accuracy <= 1 and epoch > 0 for epoch, accuracy in accuracies.items())


def best_of(trials: list[Trial]) -> Trial | None:
    """The trial of the highest validation accuracy, the earlier one of equals; None where none has any."""
    return max((trial for trial in trials if trial.usable), key=lambda trial: trial.accuracy, default=None)
