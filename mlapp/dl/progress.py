"""Where an optimisation stands, on disk: written whole after every epoch and on SIGTERM, taken up by the next start."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from mlapp import plain, storage, tensors, workspaces
from mlapp.dl import workers
from mlapp.dl.devices import current
from mlapp.errors import UserError

log = logging.getLogger("mlapp")
STATE = "state.json"
RATE = "learning_rate"
Name = Annotated[str, Field(pattern=r"^(step|best)-[0-9]{1,12}$")]  # of a file in the same folder, without its ending


@dataclass
class Progress:
    """The state beside weights and optimizer that a resumed run needs to go on as if nothing had happened."""

    step: int = 0
    waited: int = 0
    rate_scale: float = 1.0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    lowest_loss: float = float("inf")
    best: Name | None = None
    latest: Name | None = None
    history: list[dict[str, float]] = field(default_factory=list)


class Checkpoints:
    """Two checkpoints in a folder, the latest and the best, and the progress that belongs to them.

    Both are arrays alone (`mlapp.tensors`): anyone who can write to this folder can spoil a training, not run code.
    The folder is named by ``fingerprint``, the hash of what is being optimised, and by the stage's key, so that other
    settings, data or code never resume from here. The state file is replaced last and atomically, and names the
    checkpoints it goes with: a kill at any moment leaves the former state with its own files.
    """

    def __init__(self, parent: Path, fingerprint: str, model: Any, optimizer: Any) -> None:
        self.folder = workspaces.unfinished(parent, fingerprint)
        self._fingerprint = fingerprint
        self._model, self._optimizer = model, optimizer

    def restore(self) -> Progress:
        """The progress of an interrupted run, its weights and optimizer loaded; a new one where there was none."""
        devices = current()
        if devices.cluster:
            workers.require_same(devices, self._fingerprint)
        # By all workers together, where the first step or the chief's reading alone would.
        self._optimizer._create_all_weights(self._model.trainable_variables)
        progress = self._read() if devices.is_chief else Progress()
        if devices.cluster:  # the others may not reach the chief's files
            progress = Progress(**json.loads(workers.chiefs_text(devices, json.dumps(asdict(progress)))))
            workers.share(devices, [*self._model.variables, *self._optimizer.variables()])
        if progress.latest:
            log.info("resuming after step %d", progress.step)
        return progress

    def save(self, progress: Progress, *, is_best: bool) -> None:
        """Write weights and optimizer, then the state; drop what the new state no longer names."""
        if not current().is_chief:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        progress.latest = f"step-{progress.step}"
        rate = {RATE: np.float32(self._optimizer.learning_rate.numpy())}
        self._write(progress.latest, [*self._model.variables, *self._optimizer.variables()], rate)
        if is_best:
            progress.best = f"best-{progress.step}"
            self._write(progress.best, self._model.variables, {})
        storage.write_text(self.folder / STATE, json.dumps(asdict(progress)))
        kept = {progress.latest, progress.best}
        for left in self.folder.iterdir():
            if left.is_dir():  # of a write that was cut off
                shutil.rmtree(left)
            elif left.name != STATE and left.name.split(".")[0] not in kept:
                left.unlink()
        workspaces.keep(self.folder)

    def load_best(self, progress: Progress) -> None:
        """Put the best epoch's weights into the model."""
        if current().is_chief:
            self._load(str(progress.best), self._model.variables)
        workers.share(current(), self._model.variables)

    def _read(self) -> Progress:
        path = self.folder / STATE
        if not path.exists():
            return Progress()
        try:
            progress = TypeAdapter(Progress).validate_python(plain.from_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise UserError(f"{path} is not the state of a training: remove its folder, and train again") from error
        if progress.latest:
            arrays = self._load(progress.latest, [*self._model.variables, *self._optimizer.variables()], {RATE})
            self._optimizer.learning_rate.assign(arrays[RATE])
        return progress

    def _write(self, name: str, variables: Sequence[Any], others: dict[str, Any]) -> None:
        values = {str(number): _copies(variable)[0].numpy() for number, variable in enumerate(variables)}
        tensors.write(self._path(name), values | others, {})

    def _load(self, name: str, variables: Sequence[Any], others: Set[str] = frozenset()) -> tensors.Arrays:
        """Give the variables their values from a file, if it holds just these; returns what else it holds."""
        path = self._path(name)
        if not path.exists():
            raise UserError(f"checkpoint {path} is missing: remove its folder, and train again")
        arrays, _ = tensors.read(path)
        shapes = {str(number): (tuple(variable.shape), variable.dtype) for number, variable in enumerate(variables)}
        found = {number: (array.shape, array.dtype) for number, array in arrays.items() if number not in others}
        if found != shapes or not others <= arrays.keys():
            raise UserError(f"checkpoint {path} is of another network: remove its folder, and train again")
        for number, variable in enumerate(variables):
            for copy in _copies(variable):
                copy.assign(arrays[str(number)])
        return {name: arrays[name] for name in others}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _copies(variable: Any) -> Any:
    """A variable on each of this worker's devices."""
    strategy = current().strategy
    return strategy.experimental_local_results(variable) if strategy else (variable,)
