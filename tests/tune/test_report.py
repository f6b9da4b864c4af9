"""The evidence of a search: which settings mattered, told only where it can be told, and a table to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.search_space import Choice, Real, SearchSpace
from mlapp.tune import importance, report
from mlapp.tune.trials import Trial, best_of

SPACE: SearchSpace = {
    "learning_rate": Real(low=1e-3, high=1e-1, log=True),
    "warmup": Real(low=0, high=1),
    "augmentation": Choice(of=("none", "light")),
}


def trials(n: int, **fixed: Any) -> list[Trial]:
    """Trials whose accuracy is decided by the learning rate, and whose early stop by the warm-up."""
    random = np.random.default_rng(0)
    made = []
    for number in range(1, n + 1):
        rate, warmup = 10 ** random.uniform(-3, -1), random.uniform()
        base = 0.9 - 0.1 * (np.log10(rate) + 2) ** 2
        epochs = 8 if warmup > 0.5 else 2
        fields = {
            "number": number,
            "parameters": {"learning_rate": rate, "warmup": warmup, "augmentation": ("none", "light")[number % 2]},
            "state": "finished" if epochs == 8 else "stopped",
            "accuracies": {epoch: base - 0.3 / epoch for epoch in range(1, epochs + 1)},
        }
        made.append(Trial(**fields | fixed))
    return made


def test_the_setting_that_decides_is_found_not_the_one_that_stops() -> None:
    shares = importance.importances(trials(40), SPACE)
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_students_that_were_to_lose_filters_then_are_not_compared() -> None:
    late = trials(2, accuracies={7: 0.9, 8: 0.99})
    assert importance.importances([*trials(40), *late], SPACE) == importance.importances(trials(40), SPACE)


@pytest.mark.parametrize("few", [trials(11), trials(30, accuracies={1: 0.5})])
def test_nothing_is_told_of_too_few_trials_or_of_equal_ones(few: list[Trial]) -> None:
    assert importance.importances(few, SPACE) == {}


@pytest.mark.parametrize("n", [1, 4, 50])
def test_the_plot_is_drawn_of_few_and_of_many(n: int, tmp_path: Path) -> None:
    made = [*trials(n), Trial(number=n + 1, parameters={}, state="failed", reason="diverged")]
    best = best_of(made)
    assert best
    importance.draw(made, SPACE, best, "train", tmp_path / "importance.png")
    assert (tmp_path / "importance.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_ranks_the_trials_and_names_why_one_failed() -> None:
    made = [*trials(3), trials(1)[0].model_copy(update={"number": 4, "state": "failed", "reason": "diverged"})]
    best = best_of(made)
    assert best
    lines = report.table(made, best)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:6]]
    assert cells[0][:5] == ["trial", "accuracy", "epochs", "state", "time"]
    accuracies = [float(row[1].removesuffix(" %")) for row in cells[2:5]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert cells[2][0] == str(best.number)
    assert cells[5][:2] == ["4", ""]
    assert lines[6:] == ["", "Trial 4 failed: diverged"]
    assert len({len(line) for line in lines[:6]}) == 1


def test_a_trial_that_never_told_an_accuracy_cannot_be_the_best() -> None:
    made = [Trial(number=1, parameters={}, state="finished"), Trial(number=2, parameters={}, accuracies={1: 0.1})]
    assert best_of(made) is None
