"""Distil a student: a narrower network learns from the teacher's softened answers as well as from the labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.dl.adapt import adapt_to_data
from mlapp.dl.answers import taught
from mlapp.dl.budget import widest
from mlapp.dl.devices import chosen, scaled
from mlapp.dl.exporter import export
from mlapp.dl.filter_pruning import as_pruned, prune_filters
from mlapp.dl.keras_model import evaluate, load, save
from mlapp.dl.losses import distillation
from mlapp.dl.optimise import optimise
from mlapp.dl.replicas import replicate, unreplicate
from mlapp.dl.report import outcome, require_learnt
from mlapp.result import Outcome, ResultUri
from mlapp.schema import Devices, Distillation, Export, Pruning
from mlapp.search_space import Choice, Real, SearchSpace
from mlapp.stage import stage
from mlapp.tuned import with_tuned

__all__ = ["SEARCH_SPACE", "KnowledgeDistillerConfig", "evaluate", "fit", "load", "run", "save"]

SEARCH_SPACE: SearchSpace = {
    "learning_rate": Real(low=1e-2, high=2e-1, log=True),
    "temperature": Real(low=1.0, high=12.0),
    "alpha": Real(low=0.1, high=1.0),
    "weight_decay": Real(low=1e-4, high=1e-1, log=True),
    "augmentation": Choice(of=("none", "light", "strong")),
}


class KnowledgeDistillerConfig(Distillation):
    """The `distillation` settings, and one student of them."""

    data: ResultUri = Field(description="result of image_etl")
    teacher: ResultUri = Field(description="result of dnn_trainer")
    width: float = Field(gt=0, le=8, description="the student's width, as a multiplier of channels")
    tuned: ResultUri | None = Field(None, description="result of tuner: its best parameters replace the settings'")
    devices: Devices = Devices()
    export: Export = Export()


def fit(config: KnowledgeDistillerConfig, dataset: Dataset, folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """A student and its history, one record an epoch; ``folder`` keeps checkpoints to resume from."""
    config = adapt_to_data(within_budget(config, dataset), dataset)
    train = taught(dataset, config.teacher, config.augmentation, config.flip)
    validation = dataset.split("validation")
    pruning = _pruning(config)
    student = replicate(nets.build_for(dataset, config, width=config.width, seed=config.seed))
    loss = distillation(student, temperature=config.temperature, alpha=config.alpha, smoothing=config.label_smoothing)
    whole = config.model_copy(update={"epochs": config.epochs - pruning.epochs}) if pruning else config
    history = optimise(student, loss, train, validation, whole, folder, preliminary=True if pruning else None)
    student = unreplicate(student)
    if pruning:
        student, more = prune_filters(
            student, train, validation, pruning, folder, config.sparsity, earlier_epochs=len(history)
        )
        history += more
    return student, history


def _pruning(config: KnowledgeDistillerConfig) -> Pruning | None:
    """How filters leave in the second half of the epochs, if any do."""
    if not config.sparsity:
        return None
    shared = config.model_dump(include=set(Pruning.model_fields))
    return Pruning(**shared | {"epochs": config.epochs // 2})


def within_budget(config: KnowledgeDistillerConfig, dataset: Dataset) -> KnowledgeDistillerConfig:
    """The config with the student as narrow as its byte budget demands."""
    if config.max_bytes is None:
        return config
    pruning = _pruning(config)
    change = partial(as_pruned, config=pruning, sparsity=config.sparsity) if pruning else None
    width = widest(dataset, config, config.width, config.max_bytes, change)
    return config.model_copy(update={"width": width, "max_bytes": None})


def resolved(config: KnowledgeDistillerConfig) -> KnowledgeDistillerConfig:
    """The config as tuned, scaled and adapted to the data, without the other students: they change nothing here."""
    config = scaled(with_tuned(config), config.devices).model_copy(update={"widths": (config.width,)})
    return adapt_to_data(config, Dataset.open(config.data))


@stage("distill", area="models", section="distillation", resolve=resolved, each=("width", "widths"))
def run(config: KnowledgeDistillerConfig, workdir: Path) -> Outcome:
    """Distil, export and measure one student."""
    dataset = Dataset.open(config.data)
    with chosen(config.devices):
        config = within_budget(config, dataset)
        student, history = fit(config, dataset, workdir)
    require_learnt(history, dataset, config)
    artifacts, candidates = export(
        student,
        dataset,
        config.export,
        workdir,
        name=f"student-{config.width:g}" + (f" -{100 * config.sparsity:.0f}% filters" if config.sparsity else ""),
        kind="student",
        description=f"{config.architecture}, width {config.width:g}, distilled at temperature {config.temperature:g}"
        + (f", without {100 * config.sparsity:.0f} % of its filters from half-way on" if config.sparsity else ""),
    )
    return outcome(workdir, artifacts, candidates, history, dataset, config)


if __name__ == "__main__":
    run.main()
