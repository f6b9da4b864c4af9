"""Tune a trainer: search its declared space for the settings of the highest validation accuracy, with Ray Tune.

Runs on a Ray of its own, or on the cluster at RAY_ADDRESS. An interrupted search goes on where it stood: no finished
trial is made again. The result's `best` is what a trainer takes as `--tuned`. With tuning.trials=0 nothing is searched.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp import config as configuration
from mlapp import storage
from mlapp.code_version import code_version
from mlapp.dataset import Dataset
from mlapp.errors import UserError
from mlapp.result import Outcome, ResultUri
from mlapp.schema import Baseline, Config, Distillation, Trainer, Training, Tuning
from mlapp.section import Section
from mlapp.stage import stage
from mlapp.tune import report
from mlapp.tune.learning import require_learning
from mlapp.tune.search import Search, search
from mlapp.tune.space import checked, nearest, searchable
from mlapp.tune.trials import Trials

TRAINERS: dict[str, str] = {
    "train": "mlapp.dl.dnn_trainer",
    "distill": "mlapp.dl.knowledge_distiller",
    "baseline": "mlapp.ml.xgboost_trainer",
}
LENGTHS = ("epochs", "rounds")  # the field that says how long a trainer trains


class TunerConfig(Tuning):
    """The `tuning` settings, what to tune, and on what."""

    trainer: Trainer = Field(description="which trainer to tune: train, distill or baseline")
    data: ResultUri = Field(description="result of image_etl")
    teacher: ResultUri | None = Field(None, description="result of dnn_trainer, for distill")
    code: str = Field("", description="version of the trainer's code; filled in")
    training: Training = Training()
    distillation: Distillation = Distillation()
    baseline: Baseline = Baseline()


def resolved(config: TunerConfig) -> TunerConfig:
    """The config with only what this search depends on: other trainers' settings do not belong in its key."""
    if config.trainer not in config.trainers or not config.trials:
        trainers = tuple(trainer for trainer in config.trainers if trainer == config.trainer)
        return TunerConfig(trainer=config.trainer, data=config.data, trainers=trainers)
    trainer = importlib.import_module(TRAINERS[config.trainer])
    kept = {name: getattr(config, name) for name in (*Tuning.model_fields, "trainer", "data", trainer.run.section)}
    if "teacher" in trainer.run.config.model_fields:
        if config.teacher is None:
            raise UserError(f"--teacher is missing: give the result of dnn_trainer that {config.trainer} learns from")
        kept["teacher"] = config.teacher
    return TunerConfig(**kept | {"trainers": (config.trainer,), "code": code_version(TRAINERS[config.trainer])})


@stage("tune", area="models", section="tuning", resolve=resolved)
def run(config: TunerConfig, workdir: Path) -> Outcome:
    """Search, then leave the best parameters, every trial, and what mattered."""
    if not config.trials:
        return report.nothing(config.trainer, config.trainer in config.trainers, workdir)
    trainer = importlib.import_module(TRAINERS[config.trainer])
    settings = _settings(trainer, config)
    section: Any = Config.model_fields[trainer.run.section].annotation
    length = next(name for name in LENGTHS if name in section.model_fields)
    space = checked(config.space or trainer.SEARCH_SPACE, settings, searchable(section), config.trainer)
    trials = Trials(workdir, config, space)
    first = nearest(space, settings)
    search(Search(config, TRAINERS[config.trainer], settings, space, first, getattr(settings, length)), trials)
    dataset = Dataset.open(config.data)
    validation = dataset.split("validation")
    require_learning(config.trainer, list(trials), validation.labels, len(dataset.classes))
    outcome = report.outcome(config.trainer, trials, space, len(validation), workdir)
    trials.forget()
    return outcome


def _settings(trainer: Any, config: TunerConfig) -> Section:
    """The trainer's own config, as it is before anything is tuned."""
    section = getattr(config, trainer.run.section)
    given = section.model_dump() | {"data": storage.absolute(config.data)}
    fields = trainer.run.config.model_fields
    if "teacher" in fields:
        given["teacher"] = storage.absolute(str(config.teacher))
    if "width" in fields and "widths" in given:
        given["width"] = max(given["widths"])
    if config.epochs and "epochs" in given:
        given["epochs"] = min(given["epochs"], config.epochs)
    kind: type[Section] = trainer.run.config
    return configuration.validate(kind, given, {})


if __name__ == "__main__":
    run.main()
