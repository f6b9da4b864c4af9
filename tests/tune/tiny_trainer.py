"""The least trainer of the common form: its "accuracy" is a known function of its settings, and it can misbehave."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp import tracking
from mlapp.dataset import Dataset
from mlapp.errors import UserError
from mlapp.result import Outcome, ResultUri
from mlapp.schema import Training
from mlapp.search_space import Choice, Real, SearchSpace, Whole
from mlapp.stage import stage

SEARCH_SPACE: SearchSpace = {
    "learning_rate": Real(low=1e-3, high=1.0, log=True),
    "batch_size": Whole(low=8, high=64),
    "augmentation": Choice(of=("none", "light")),
}
DOES = {1: "refuse", 2: "refuse light", 3: "crash", 4: "die", 5: "meet", 6: "guess"}
IMPORTED = time.monotonic_ns()  # of this import of this module


class TinyTrainerConfig(Training):
    """The `training` settings."""

    data: ResultUri = Field(description="result of image_etl")


def accuracy(config: Training, epoch: int) -> float:
    """Best at a learning rate of 0.1 without augmentation; rises with the epochs."""
    if DOES.get(config.seed) == "guess":
        return 0.1
    return 0.9 * epoch / config.epochs * config.learning_rate**0.05 - 0.1 * (config.augmentation == "light")


def fit(config: TinyTrainerConfig, dataset: Dataset, folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """Pretend to train, as the seed says, TINY_SECONDS an epoch; what was done is noted where TINY_NOTES says."""
    _note(f"fit {os.getpid()} {IMPORTED} {os.environ['TF_NUM_INTRAOP_THREADS']} {config.learning_rate!r}")
    does = DOES.get(config.seed)
    if does == "refuse" or (does == "refuse light" and config.augmentation == "light"):
        raise UserError("the loss is nan: training diverged; lower learning_rate")
    if does == "crash":
        raise ValueError("a bug\nof two lines")
    if does == "die":
        os._exit(1)
    if does == "meet":
        _meet(Path(config.data).with_name("met"))
    done = folder / "epochs"
    begin = len(done.read_text()) if done.exists() else 0
    history = [{"validation_accuracy": accuracy(config, epoch)} for epoch in range(1, begin + 1)]
    for epoch in range(begin + 1, config.epochs + 1):
        time.sleep(float(os.environ.get("TINY_SECONDS", "0")))
        history.append({"validation_accuracy": accuracy(config, epoch)})
        done.write_text("." * epoch)
        _note(f"epoch {epoch} {config.learning_rate!r}")
        tracking.epoch(epoch, history[-1])
    return None, history


@stage("train", area="models", section="training")
def run(config: TinyTrainerConfig, workdir: Path) -> Outcome:
    """Never run: a search calls fit."""
    raise NotImplementedError


def _meet(folder: Path) -> None:
    """Wait until a second process is here too, or it is clear that none comes."""
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)


def _note(line: str) -> None:
    if "TINY_NOTES" in os.environ:
        with Path(os.environ["TINY_NOTES"]).open("a") as stream:
            stream.write(f"{line}\n")
