"""What a search found replaces a trainer's settings, is validated like them, and enters the trainer's key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import planted
import pytest

from mlapp.config import read_preset
from mlapp.dl import dnn_trainer, knowledge_distiller
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.tuned import with_tuned


def found(folder: Path, **parameters: Any) -> str:
    path = folder / "best.json"
    path.write_text(json.dumps({"parameters": parameters}))
    return planted.result(folder, "tune", {"best": path}).uri


@pytest.fixture
def settings(planted_data: StageResult) -> dict[str, Any]:
    return {**read_preset("smoke")["training"], "data": planted_data.uri}


def test_the_best_parameters_replace_the_settings(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = dnn_trainer.DnnTrainerConfig(**settings, tuned=found(tmp_path, learning_rate=0.02, augmentation="light"))
    tuned = dnn_trainer.run.resolved(config)
    assert (tuned.learning_rate, tuned.augmentation, tuned.epochs) == (0.02, "light", settings["epochs"])
    assert with_tuned(tuned) == tuned
    assert dnn_trainer.run.key(tuned) != dnn_trainer.run.key(config)


def test_nothing_searched_changes_nothing(settings: dict[str, Any]) -> None:
    config = dnn_trainer.DnnTrainerConfig(**settings)
    assert with_tuned(config) is config


def test_a_search_for_another_trainer_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Both trainers have a learning rate, and one's is not the other's."""
    uri = found(tmp_path, learning_rate=0.3)
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": {"trainer": "baseline"}}))
    with pytest.raises(UserError, match="is a search for baseline: give as --tuned"):
        with_tuned(dnn_trainer.DnnTrainerConfig(**settings, tuned=uri))


@pytest.mark.parametrize(
    "parameters",
    [
        {"learning_rate": 7.0},
        {"no_such_field": 1},
        {"data": "gs://theirs/result.json", "learning_rate": 0.1},  # not the data that were approved
        {"devices": {"gpus": 1}},
        {"epochs": 2},
    ],
)
def test_parameters_that_the_trainer_does_not_take_are_told(
    tmp_path: Path, settings: dict[str, Any], parameters: dict[str, Any]
) -> None:
    config = dnn_trainer.DnnTrainerConfig(**settings, tuned=found(tmp_path, **parameters))
    with pytest.raises(UserError, match=next(iter(parameters))):
        with_tuned(config)


@pytest.mark.parametrize("trainer", [dnn_trainer, knowledge_distiller])
def test_every_dimension_of_a_search_space_is_a_setting_and_its_bounds_are_valid(
    trainer: Any, planted_data: StageResult
) -> None:
    given = {"data": "-", "teacher": "-", "width": 0.5}
    needed = {name: value for name, value in given.items() if name in trainer.run.config.model_fields}
    for name, dimension in trainer.SEARCH_SPACE.items():
        for value in getattr(dimension, "of", None) or (dimension.low, dimension.high):
            assert getattr(trainer.run.config(**needed, **{name: value}), name) == value
