"""Weight pruning: the wanted share of each kernel is zero, and nothing of the pruning apparatus remains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.dl.answers import answers_of
from mlapp.dl.weight_pruning import prune_weights
from mlapp.errors import Terminated
from mlapp.schema import Pruning


def network(seed: int = 1) -> Any:
    return nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.125, seed=seed)


def settings(**changes: Any) -> Pruning:
    return Pruning(**{"method": "weights", "epochs": 2, "batch_size": 50, "augmentation": "none", **changes})


def prune(student: Any, dataset: Dataset, folder: Path, sparsity: float, **changes: Any) -> Any:
    train = dataset.split("train")
    train = replace(train, answers=answers_of(network(7), train)[0])
    return prune_weights(student, train, dataset.split("validation"), settings(**changes), folder, sparsity)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_each_kernel_ends_at_the_wanted_sparsity_in_the_same_shapes(
    dataset: Dataset, tmp_path: Path, sparsity: float
) -> None:
    student = network()
    before = student.get_weights()
    pruned, history = prune(student, dataset, tmp_path, sparsity)

    assert [layer.name for layer in pruned.layers] == [layer.name for layer in student.layers]
    for layer in pruned.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.get_weights()[0]
            assert (kernel == 0).mean() == pytest.approx(sparsity, abs=1.5 / kernel.size)
    assert [weight.shape for weight in pruned.get_weights()] == [weight.shape for weight in before]
    assert len(history) == 2


def test_the_student_itself_is_left_as_it_was(dataset: Dataset, tmp_path: Path) -> None:
    student = network()
    before = student.get_weights()
    prune(student, dataset, tmp_path, 0.5, epochs=1)
    assert all(np.array_equal(old, new) for old, new in zip(before, student.get_weights(), strict=True))


def test_an_interrupted_pruning_resumes_at_its_sparsity(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlapp.dl import optimise

    run, calls = optimise._run_epoch, []

    def stop_after_the_second(*arguments: Any) -> None:
        run(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise Terminated

    monkeypatch.setattr(optimise, "_run_epoch", stop_after_the_second)
    with pytest.raises(Terminated):
        prune(network(), dataset, tmp_path, 0.6)
    pruned, history = prune(network(), dataset, tmp_path, 0.6)
    assert len(history) == 2
    assert (pruned.get_layer("block1").get_weights()[0] == 0).mean() == pytest.approx(0.6, abs=0.02)
