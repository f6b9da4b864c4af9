"""Train the teacher: a convolutional network on the training split, its best epoch chosen on validation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp.dataset import Dataset, Split
from mlapp.dl import answers, nets
from mlapp.dl.answers import taught_by
from mlapp.dl.devices import chosen, scaled
from mlapp.dl.exporter import export
from mlapp.dl.keras_model import evaluate, load, save
from mlapp.dl.losses import Loss, classification, distillation
from mlapp.dl.optimise import optimise
from mlapp.dl.replicas import replicate, unreplicate
from mlapp.dl.report import outcome
from mlapp.result import Outcome, ResultUri
from mlapp.schema import Devices, Export, Training
from mlapp.search_space import Choice, Real, SearchSpace
from mlapp.stage import stage
from mlapp.tuned import with_tuned

__all__ = ["SEARCH_SPACE", "DnnTrainerConfig", "evaluate", "fit", "load", "run", "save"]

log = logging.getLogger("mlapp")

SEARCH_SPACE: SearchSpace = {
    "learning_rate": Real(low=1e-2, high=2e-1, log=True),
    "batch_size": Choice(of=(32, 64, 128, 256)),
    "label_smoothing": Real(low=0.0, high=0.15),
    "weight_decay": Real(low=1e-4, high=1e-1, log=True),
    "warmup": Real(low=0.05, high=0.4),
    "augmentation": Choice(of=("none", "light", "strong")),
}
TEMPERATURE, ALPHA = 2.0, 0.7  # between generations: what students learn best with


class DnnTrainerConfig(Training):
    """The `training` settings, and what to train on."""

    data: ResultUri = Field(description="result of image_etl")
    tuned: ResultUri | None = Field(None, description="result of tuner: its best parameters replace the settings'")
    devices: Devices = Devices()
    export: Export = Export()


def fit(config: Training, dataset: Dataset, folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """A trained network and its history, one record an epoch; ``folder`` keeps checkpoints to resume from.

    A generation differs from the one before in its seed, and by it in first weights, order and checkpoints.
    """
    train, validation = dataset.split("train"), dataset.split("validation")
    model, history = None, list[dict[str, float]]()
    for seed in range(config.seed, config.seed + config.generations):
        if model is not None:
            log.info("generation %d of %d learns from the one before", seed - config.seed + 1, config.generations)
            train = taught_by(unreplicate(model), train, config.augmentation)
        model = replicate(nets.build_for(dataset, config, width=config.width, seed=seed))
        own = config.model_copy(update={"seed": seed, "generations": 1})
        loss = _loss(model, config, train)
        history += optimise(model, loss, train, validation, own, folder, earlier_epochs=len(history))
    return unreplicate(model), history


def _loss(model: Any, config: Training, train: Split) -> Loss:
    """The labels' loss, smoothed; with answers to learn from, which are soft themselves, both."""
    if train.answers is None:
        return classification(model, config.label_smoothing)
    return distillation(model, temperature=TEMPERATURE, alpha=ALPHA, smoothing=0.0)


def resolved(config: DnnTrainerConfig) -> DnnTrainerConfig:
    """The config as tuned, and as scaled to the devices there are."""
    return scaled(with_tuned(config), config.devices)


@stage("train", area="models", section="training", resolve=resolved)
def run(config: DnnTrainerConfig, workdir: Path) -> Outcome:
    """Train, export and measure the teacher."""
    dataset = Dataset.open(config.data)
    with chosen(config.devices):
        model, history = fit(config, dataset, workdir)
    artifacts, candidates = export(
        model,
        dataset,
        config.export,
        workdir,
        name="teacher",
        kind="teacher",
        description=f"{config.architecture}, width {config.width:g}, {len(history)} epochs",
    )
    artifacts[answers.ARTIFACT] = answers.write(model, dataset, workdir)
    return outcome(workdir, artifacts, candidates, history)


if __name__ == "__main__":
    run.main()
