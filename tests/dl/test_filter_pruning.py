"""Filter pruning in rounds: the wanted share goes in all, the epochs are shared out, an interruption loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.dataset import Dataset
from mlapp.dl import filter_pruning, nets
from mlapp.dl.answers import answers_of
from mlapp.dl.filter_pruning import epochs_of_rounds, prune_filters
from mlapp.errors import Terminated
from mlapp.schema import Pruning


def network(seed: int = 1) -> Any:
    return nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.5, seed=seed)


def prune(dataset: Dataset, folder: Path, sparsity: float, **changes: Any) -> Any:
    train = dataset.split("train")
    train = replace(train, answers=answers_of(network(7), train)[0])
    config = Pruning(**{"epochs": 2, "batch_size": 50, "augmentation": "none", **changes})
    return prune_filters(network(), train, dataset.split("validation"), config, folder, sparsity)


@pytest.mark.parametrize(
    ("rounds", "epochs", "shared"),
    [(1, 5, [5]), (3, 8, [2, 2, 4]), (3, 2, [1, 1]), (4, 1, [1]), (3, 30, [7, 7, 16]), (20, 20, [1] * 20)],
)
def test_the_last_round_gets_what_the_earlier_ones_leave(rounds: int, epochs: int, shared: list[int]) -> None:
    assert epochs_of_rounds(rounds, epochs) == shared


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_as_many_filters_go_however_many_rounds_there_are(
    dataset: Dataset, tmp_path: Path, rounds: int, told: list[tuple[int, Mapping[str, float]]]
) -> None:
    pruned, history = prune(dataset, tmp_path, 0.5, rounds=rounds, epochs=3)
    for name, filters in (("stem", 8), ("widen1", 16), ("widen2", 32), ("block1", 48)):
        assert pruned.get_layer(name).filters == pytest.approx(filters / 2, abs=1)
    assert len(history) == 3
    assert [number for number, _ in told] == [1, 2, 3]


def test_an_interrupted_pruning_ends_as_an_undisturbed_one(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = prune(dataset, tmp_path / "undisturbed", 0.4)
    run, calls = filter_pruning.optimise, []

    def stop_before_the_second(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Terminated
        return run(*arguments, **more)

    monkeypatch.setattr(filter_pruning, "optimise", stop_before_the_second)
    with pytest.raises(Terminated):
        prune(dataset, tmp_path / "stopped", 0.4)
    resumed, history = prune(dataset, tmp_path / "stopped", 0.4)
    assert len(calls) == 4
    assert len(history) == 2
    for left, right in zip(expected.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
