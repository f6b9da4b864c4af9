"""Prune the best student and fine-tune it with the teacher: whole filters, rebuilt narrower, or single weights.

Every sparsity is tried; the sparsest network within the stated tolerance of the unpruned student's validation
accuracy is kept, or the most accurate one where none is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp.candidate import read_candidates
from mlapp.dataset import Dataset, Split
from mlapp.dl.adapt import adapt_to_data
from mlapp.dl.answers import taught
from mlapp.dl.devices import chosen, scaled
from mlapp.dl.exporter import export
from mlapp.dl.filter_pruning import prune_filters
from mlapp.dl.keras_model import evaluate, load, load_from, save
from mlapp.dl.report import outcome, require_learnt
from mlapp.dl.weight_pruning import prune_weights
from mlapp.result import Outcome, ResultUri, ResultUris, StageResult
from mlapp.schema import Devices, Export, Pruning
from mlapp.stage import stage

__all__ = ["DnnPrunerConfig", "evaluate", "fit", "load", "run", "save"]
log = logging.getLogger("mlapp")


class DnnPrunerConfig(Pruning):
    """The `pruning` settings, and what to prune."""

    data: ResultUri = Field(description="result of image_etl")
    teacher: ResultUri = Field(description="result of dnn_trainer")
    students: ResultUris = Field(
        min_length=1, description="results of knowledge_distiller; the most accurate is pruned"
    )
    sparsity: float | None = Field(None, gt=0, lt=1, description="try just this one of the sparsities")
    devices: Devices = Devices()
    export: Export = Export()


def fit(
    config: Pruning, student: Any, train: Split, validation: Split, folder: Path, *, sparsity: float
) -> tuple[Any, list[dict[str, float]]]:
    """``student`` without a share of ``sparsity`` of its filters or weights, and the history of its fine-tuning.

    ``train`` holds the teacher's answers (`mlapp.dl.answers`).
    """
    by = prune_weights if config.method == "weights" else prune_filters
    return by(student, train, validation, config, folder, sparsity)


def resolved(config: DnnPrunerConfig) -> DnnPrunerConfig:
    """The config as scaled and adapted, without the other sparsities where one is asked for: they change nothing."""
    config = adapt_to_data(scaled(config, config.devices), Dataset.open(config.data))
    return config.model_copy(update={"sparsities": (config.sparsity,), "sparsity": None}) if config.sparsity else config


@stage("prune", area="models", section="pruning", resolve=resolved)
def run(config: DnnPrunerConfig, workdir: Path) -> Outcome:
    """Prune at every sparsity, keep the best, export and measure it."""
    dataset = Dataset.open(config.data)
    parent_uri, parent_name, parent_accuracy = _best(config.students)
    tried = []
    with chosen(config.devices):
        student = load_from(parent_uri, dataset)
        train = taught(dataset, config.teacher, config.augmentation, config.flip)
        validation = dataset.split("validation")
        for sparsity in config.sparsities:
            folder = workdir / f"sparsity-{sparsity:g}"
            model, history = fit(config, student, train, validation, folder, sparsity=sparsity)
            accuracy = evaluate(model, validation).value
            log.info(
                "%s without %.0f %% of its %s: %.2f %%", parent_name, 100 * sparsity, config.method, 100 * accuracy
            )
            tried.append((accuracy >= parent_accuracy - config.tolerance, sparsity, accuracy, model, history))
    passing = [trial for trial in tried if trial[0]]
    _, sparsity, _, model, history = (
        max(passing, key=lambda trial: trial[1]) if passing else max(tried, key=lambda trial: trial[2])
    )
    require_learnt(history, dataset, config)
    artifacts, candidates = export(
        model,
        dataset,
        config.export,
        workdir,
        name=f"{parent_name} -{100 * sparsity:.0f}% {config.method}",
        kind="filters pruned" if config.method == "filters" else "weights pruned",
        description=f"{parent_name} without {100 * sparsity:.0f} % of its {config.method}, fine-tuned with the teacher",
    )
    return outcome(workdir, artifacts, candidates, history, dataset, config)


def _best(uris: tuple[str, ...]) -> tuple[str, str, float]:
    """The student with the highest validation accuracy in float32: its URI, name and accuracy."""
    students = [
        (candidate.validation_accuracy.value, candidate.name, uri)
        for uri in uris
        for candidate in read_candidates(StageResult.load(uri))
        if candidate.precision == "float32"
    ]
    accuracy, name, uri = max(students)
    return uri, name, accuracy


if __name__ == "__main__":
    run.main()
