"""A search of which no trial learnt anything has found nothing, and says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.statistics import most_by_luck
from mlapp.tune import tuner
from mlapp.tune.learning import require_learning
from mlapp.tune.trials import Trial

Make = Callable[..., tuner.TunerConfig]
BALANCED = (np.arange(5000) % 10).astype(np.uint8)


def trials(*accuracies: float) -> list[Trial]:
    return [
        Trial(number=number, parameters={}, state="finished", accuracies={1: accuracy})
        for number, accuracy in enumerate(accuracies, start=1)
    ]


def test_models_that_guess_have_found_nothing() -> None:
    """16 guessing models, 200 times: at most as often as stated does the luckiest pass for one that learnt."""
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(200):
        with contextlib.suppress(UserError):
            require_learning("train", trials(*random.binomial(5000, 0.1, 16) / 5000), BALANCED, 10)
            passed += 1
    assert passed <= 8
    with pytest.raises(UserError, match=r"tuning\.space"):
        require_learning("train", trials(0.1, 0.1026), BALANCED, 10)


@pytest.mark.parametrize("best", [0.13, 0.5, 1.0])
def test_one_trial_above_luck_is_enough(best: float) -> None:
    require_learning("train", trials(0.1, 0.1, best), BALANCED, 10)


def test_the_bound_grows_with_the_trials_and_shrinks_with_the_images() -> None:
    assert most_by_luck(5000, 10, 1) < most_by_luck(5000, 10, 100) < 650
    assert most_by_luck(100, 10, 10) / 100 > 1.5 * most_by_luck(10_000, 10, 10) / 10_000
    assert most_by_luck(20, 2, 4) <= 20


def test_the_commonest_class_for_every_image_is_nothing_learnt() -> None:
    labels = np.repeat(np.array([0, 1], np.uint8), [300, 15])
    with pytest.raises(UserError, match="each trial takes one class for every image"):
        require_learning("train", trials(300 / 315, 15 / 315), labels, 2)
    require_learning("train", trials(300 / 315, 310 / 315), labels, 2)
    require_learning("train", trials(300 / 315, 290 / 315), labels, 2)


def test_an_accuracy_that_is_no_number_is_never_the_best() -> None:
    (trial,) = trials(float("nan"))
    assert not trial.usable


@pytest.mark.usefixtures("nothing_left")
def test_a_search_that_learns_nothing_is_refused_and_leaves_no_result(
    config: Make, tiny_trainer: Path, tmp_path: Path
) -> None:
    """The tiny trainer's first of many epochs is at chance; the same command says so again without a new trial."""
    given = config(trials=2, concurrency=1, training={"seed": 6})
    told = r"^train: the search found nothing: the best of 2 trials has 10\.00 % of 2000"
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            tuner.run(given, tmp_path / "work")
    assert not (tmp_path / "work" / "result.json").exists()
    assert tiny_trainer.read_text().count("fit") == 2


def test_its_command_ends_with_2_and_one_line(
    planted_data: StageResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the trials were made before: no Ray is needed to see that none of them learnt."""

    def over(what: object, kept: object) -> None:
        for trial in trials(0.1, 0.1026):
            kept.put(trial)  # type: ignore[attr-defined]

    monkeypatch.setattr(tuner, "search", over)
    ended = tmp_path / "ended.json"
    with pytest.raises(SystemExit) as raised:
        tuner.run.main(
            [
                *("--trainer", "train", "--data", planted_data.uri, "--workdir", str(tmp_path / "work")),
                *("--ended-to", str(ended), "tuning.trials=2", "tracking.wandb=off"),
            ]
        )
    assert raised.value.code == 2
    told = json.loads(ended.read_text())
    assert told["exit_code"] == 2
    assert "the search found nothing" in told["reason"]
    assert capsys.readouterr().err.count("\n") == 1
