"""A search over the real trainers: TensorFlow in Ray's workers, the best parameters taken up by the trainer itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlapp.dl import dnn_trainer, knowledge_distiller
from mlapp.result import StageResult
from mlapp.schema import Distillation, Training
from mlapp.search_space import Choice, Whole
from mlapp.tune import tuner
from mlapp.tuned import with_tuned


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", ["train", "distill"])
def test_the_best_parameters_of_a_search_go_into_the_trainer(
    name: str,
    planted_data: StageResult,
    planted_teacher: StageResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    short = {"epochs": 2, "batch_size": 64}
    config = tuner.TunerConfig(
        trainer=name,
        data=planted_data.uri,
        teacher=planted_teacher.uri,
        trials=3,
        trainers=(name,),
        concurrency=1,
        training=Training(width=0.125, **short),
        distillation=Distillation(widths=(0.125,), **short),
    )
    result = tuner.run(config, tmp_path / "work")
    trials = json.loads(result.local("trials").read_text())
    assert len(trials) == 3
    assert {trial["state"] for trial in trials} <= {"finished", "stopped"}
    assert len({trial["process"] for trial in trials}) == 1
    assert all(trial["cpu_seconds"] > 0 for trial in trials)

    make: Callable[..., Training | Distillation]
    make, given = {
        "train": (dnn_trainer.DnnTrainerConfig, config.training),
        "distill": (knowledge_distiller.KnowledgeDistillerConfig, config.distillation),
    }[name]
    more = {"teacher": planted_teacher.uri, "width": 0.125} if name == "distill" else {}
    tuned = with_tuned(make(**given.model_dump(), **more, data=planted_data.uri, tuned=result.uri))
    best = max(trials, key=lambda trial: max(trial["accuracies"].values()))
    assert {field: getattr(tuned, field) for field in best["parameters"]} == best["parameters"]


@pytest.mark.usefixtures("nothing_left")
def test_depth_and_sparsity_are_searched_within_one_byte_budget(
    planted_data: StageResult, planted_teacher: StageResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a student that is to lose filters can do before is not what it is compared by, and it is never stopped."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = tuner.TunerConfig(
        trainer="distill",
        data=planted_data.uri,
        teacher=planted_teacher.uri,
        trials=4,
        trainers=("distill",),
        concurrency=1,
        space={"depth": Whole(low=0, high=1), "sparsity": Choice(of=(0.0, 0.4))},
        distillation=Distillation(max_bytes=20_000, widths=(1.0,), epochs=2, batch_size=64),
    )
    trials = json.loads(tuner.run(config, tmp_path / "work").local("trials").read_text())
    found = {(trial["parameters"]["depth"], trial["parameters"]["sparsity"]): trial for trial in trials}
    assert found.keys() == {(0, 0.0), (0, 0.4), (1, 0.0), (1, 0.4)}
    for (_, sparsity), trial in found.items():
        if sparsity:
            assert trial["state"] == "finished"
            assert trial["accuracies"].keys() == {"2"}
        else:
            assert trial["accuracies"].keys() <= {"1", "2"}
