"""Where an optimisation stands, on disk: written whole after every epoch and on SIGTERM, taken up by the next start."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlapp import storage, workspaces
from mlapp.dl import workers
from mlapp.dl.backend import tf
from mlapp.dl.devices import current

log = logging.getLogger("mlapp")
STATE = "state.json"


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
    best: str | None = None
    latest: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)


class Checkpoints:
    """Two checkpoints in a folder, the latest and the best, and the progress that belongs to them.

    The folder is named by ``fingerprint``, the hash of what is being optimised, so that other settings never resume
    from here. The state file is replaced last and atomically, and names the checkpoints it goes with: a kill at any
    moment leaves the former state with its own files.
    """

    def __init__(self, parent: Path, fingerprint: str, model: Any, optimizer: Any) -> None:
        self.folder = parent / fingerprint[:12]
        self._fingerprint = fingerprint
        self._model, self._optimizer = model, optimizer
        self._everything = tf.train.Checkpoint(model=model, optimizer=optimizer)
        self._weights = tf.train.Checkpoint(model=model)

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
        self._write(self._everything, progress.latest)
        if is_best:
            progress.best = f"best-{progress.step}"
            self._write(self._weights, progress.best)
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
            self._weights.read(str(self.folder / str(progress.best))).expect_partial()
        workers.share(current(), self._model.variables)

    def _read(self) -> Progress:
        path = self.folder / STATE
        if not path.exists():
            return Progress()
        progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
        self._everything.read(str(self.folder / str(progress.latest))).assert_existing_objects_matched()
        return progress

    def _write(self, checkpoint: Any, name: str) -> None:
        path = str(self.folder / name)
        try:
            checkpoint.write(path)
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error
        except tf.errors.PermissionDeniedError as error:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path) from error
