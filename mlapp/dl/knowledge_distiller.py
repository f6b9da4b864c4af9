"""Distil a student: a narrower network learns from the teacher's softened answers as well as from the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.dl.exporter import export
from mlapp.dl.keras_model import evaluate, load, load_from, save
from mlapp.dl.losses import distillation
from mlapp.dl.optimise import optimise
from mlapp.dl.report import outcome
from mlapp.result import Outcome, ResultUri
from mlapp.schema import Distillation, Export
from mlapp.stage import stage

__all__ = ["KnowledgeDistillerConfig", "evaluate", "fit", "load", "run", "save"]


class KnowledgeDistillerConfig(Distillation):
    """The `distillation` settings, and one student of them."""

    data: ResultUri = Field(description="result of image_etl")
    teacher: ResultUri = Field(description="result of dnn_trainer")
    width: float = Field(gt=0, le=8, description="the student's width, as a multiplier of channels")
    export: Export = Export()


def fit(
    config: KnowledgeDistillerConfig, dataset: Dataset, folder: Path, teacher: Any
) -> tuple[Any, list[dict[str, float]]]:
    """A student taught by ``teacher``, whose weights stay as they are, and its history."""
    student = nets.build(
        config.architecture,
        shape=dataset.shape,
        classes=len(dataset.classes),
        width=config.width,
        seed=config.seed,
    )
    loss = distillation(
        student, teacher, temperature=config.temperature, alpha=config.alpha, smoothing=config.label_smoothing
    )
    history = optimise(student, loss, dataset.split("train"), dataset.split("validation"), config, folder)
    return student, history


def only_this_width(config: KnowledgeDistillerConfig) -> KnowledgeDistillerConfig:
    """The config without the other students: they do not change this one, so they do not belong in its key."""
    return config.model_copy(update={"widths": (config.width,)})


@stage("distill", area="models", section="distillation", resolve=only_this_width)
def run(config: KnowledgeDistillerConfig, workdir: Path) -> Outcome:
    """Distil, export and measure one student."""
    dataset = Dataset.open(config.data)
    student, history = fit(config, dataset, workdir, load_from(config.teacher))
    artifacts, candidates = export(
        student,
        dataset,
        config.export,
        workdir,
        name=f"student-{config.width:g}",
        kind="student",
        description=f"{config.architecture}, width {config.width:g}, distilled at temperature {config.temperature:g}",
    )
    return outcome(workdir, artifacts, candidates, history)


if __name__ == "__main__":
    run.main()
