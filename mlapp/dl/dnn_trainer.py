"""Train the teacher: a convolutional network on the training split, its best epoch chosen on validation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp.dataset import Dataset
from mlapp.dl import answers, nets
from mlapp.dl.adapt import adapt_to_data
from mlapp.dl.augment import policy_of
from mlapp.dl.devices import chosen, scaled
from mlapp.dl.exporter import export
from mlapp.dl.keras_model import evaluate, load, save
from mlapp.dl.losses import classification
from mlapp.dl.optimise import optimise
from mlapp.dl.replicas import replicate, unreplicate
from mlapp.dl.report import outcome, require_learnt
from mlapp.result import Outcome, ResultUri
from mlapp.schema import Devices, Export, Training
from mlapp.search_space import Choice, Real, SearchSpace
from mlapp.stage import stage
from mlapp.tuned import with_tuned

log = logging.getLogger("mlapp")
__all__ = ["SEARCH_SPACE", "DnnTrainerConfig", "evaluate", "fit", "load", "run", "save"]

SEARCH_SPACE: SearchSpace = {
    "learning_rate": Real(low=1e-2, high=2e-1, log=True),
    "batch_size": Choice(of=(32, 64, 128, 256)),
    "label_smoothing": Real(low=0.0, high=0.15),
    "weight_decay": Real(low=1e-4, high=1e-1, log=True),
    "warmup": Real(low=0.05, high=0.4),
    "augmentation": Choice(of=("none", "light", "strong")),
}


class DnnTrainerConfig(Training):
    """The `training` settings, and what to train on."""

    data: ResultUri = Field(description="result of image_etl")
    tuned: ResultUri | None = Field(None, description="result of tuner: its best parameters replace the settings'")
    devices: Devices = Devices()
    export: Export = Export()


def fit(config: Training, dataset: Dataset, folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """A trained network and its history, one record an epoch; ``folder`` keeps checkpoints to resume from."""
    config = adapt_to_data(config, dataset)
    model = replicate(nets.build_for(dataset, config, width=config.width, seed=config.seed))
    loss = classification(model, config.label_smoothing)
    history = optimise(model, loss, dataset.split("train"), dataset.split("validation"), config, folder)
    return unreplicate(model), history


def resolved(config: DnnTrainerConfig) -> DnnTrainerConfig:
    """The config as tuned, as scaled to the devices there are, and as adapted to the data."""
    return adapt_to_data(scaled(with_tuned(config), config.devices), Dataset.open(config.data))


@stage("train", area="models", section="training", resolve=resolved)
def run(config: DnnTrainerConfig, workdir: Path) -> Outcome:
    """Train, export and measure the teacher."""
    dataset = Dataset.open(config.data)
    with chosen(config.devices):
        model, history = fit(config, dataset, workdir)
    require_learnt(history, dataset, config)
    both_sides = config.both_sides and policy_of(config.augmentation, config.flip).mirrors
    if config.both_sides and not both_sides:
        log.warning("both_sides has no effect, as no image was mirrored in training: see flip")
    if both_sides:
        model = nets.with_both_sides(model, dataset, config)
    artifacts, candidates = export(
        model,
        dataset,
        config.export,
        workdir,
        name="teacher",
        kind="teacher",
        description=f"{config.architecture}, width {config.width:g}, {len(history)} epochs"
        + (", mean over an image and its mirror image" if both_sides else ""),
    )
    artifacts[answers.ARTIFACT] = answers.write(model, dataset, workdir)
    return outcome(workdir, artifacts, candidates, history, dataset, config)


if __name__ == "__main__":
    run.main()
