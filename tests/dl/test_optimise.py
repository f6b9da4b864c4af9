"""The one training loop: schedules, early stopping, best epoch, and a resume that changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.dataset import Dataset, Split
from mlapp.dl import nets, optimise
from mlapp.dl.losses import classification
from mlapp.dl.training_step import learning_rate
from mlapp.errors import Terminated, UserError
from mlapp.schema import Optimization


def settings(**changes: Any) -> Optimization:
    return Optimization(**{"epochs": 3, "batch_size": 100, "augmentation": "light", **changes})


def network(dataset: Dataset, seed: int = 1) -> Any:
    return nets.build("convnet", shape=dataset.shape, classes=10, width=0.125, seed=seed)


def train(model: Any, dataset: Dataset, config: Optimization, folder: Path, loss: Any = None) -> list[dict[str, float]]:
    loss = loss or classification(model, config.label_smoothing)
    return optimise.optimise(model, loss, dataset.split("train"), dataset.split("validation"), config, folder)


def test_one_cycle_rises_to_the_peak_and_falls_to_nearly_zero() -> None:
    config = settings(learning_rate=0.1, schedule="one_cycle", warmup=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1 / 20)
    assert max(rates) == rates[19] == pytest.approx(0.1)
    assert np.all(np.diff(rates[:20]) > 0)
    assert np.all(np.diff(rates[20:]) < 0)
    assert 0 < rates[-1] < 0.002


def test_training_learns_and_ends_with_its_best_epoch(dataset: Dataset, tmp_path: Path) -> None:
    model = network(dataset)
    history = train(model, dataset, settings(epochs=6, learning_rate=0.01, augmentation="none"), tmp_path)
    best = max(record["validation_accuracy"] for record in history)
    assert best > 0.35
    assert optimise.evaluate(model, dataset.split("validation"))[1] == pytest.approx(best)


@pytest.mark.parametrize(("at_step", "optimizer"), [(4, "adam"), (13, "muon")])
def test_an_interrupted_run_ends_with_the_same_weights(
    dataset: Dataset, tmp_path: Path, at_step: int, optimizer: str
) -> None:
    """Given a SIGTERM in the first or the second epoch, when it is started again, then nothing is different."""
    config = settings(optimizer=optimizer)
    undisturbed = network(dataset)
    expected = train(undisturbed, dataset, config, tmp_path / "undisturbed")

    stopped = network(dataset)
    steps = []

    def stop_there(images: Any, labels: Any) -> Any:
        steps.append(1)
        if len(steps) > at_step:
            raise Terminated
        return original(images, labels)

    original = optimise.step_function
    with pytest.MonkeyPatch.context() as patch:

        def stopping(*arguments: Any) -> Any:
            nonlocal original
            original = whole(*arguments)
            return stop_there

        whole = optimise.step_function
        patch.setattr(optimise, "step_function", stopping)
        with pytest.raises(Terminated):
            train(stopped, dataset, config, tmp_path / "stopped")

    resumed = network(dataset, seed=99)
    history = train(resumed, dataset, config, tmp_path / "stopped")

    for left, right in zip(undisturbed.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert [record["loss"] for record in history] == [record["loss"] for record in expected]


def test_a_finished_run_is_not_trained_again(dataset: Dataset, tmp_path: Path) -> None:
    first = train(network(dataset), dataset, settings(epochs=1), tmp_path)
    assert train(network(dataset), dataset, settings(epochs=1), tmp_path) == first


def test_other_settings_never_resume_from_each_other(dataset: Dataset, tmp_path: Path) -> None:
    train(network(dataset), dataset, settings(epochs=1), tmp_path)
    history = train(network(dataset), dataset, settings(epochs=1, learning_rate=1e-5), tmp_path)
    assert history[0]["learning_rate"] < 1e-5


def test_only_two_checkpoints_are_kept_and_what_a_kill_left_is_removed(dataset: Dataset, tmp_path: Path) -> None:
    train(network(dataset), dataset, settings(), tmp_path)
    [folder] = (tmp_path / "checkpoints").iterdir()
    shutil.rmtree(folder)
    (folder / "step-9_temp").mkdir(parents=True)
    train(network(dataset), dataset, settings(), tmp_path)
    state = json.loads((folder / "state.json").read_text())
    assert {file.name.split(".")[0] for file in folder.iterdir()} == {"state", state["latest"], state["best"]}


def test_training_stops_early_without_progress_and_reduces_the_rate_on_a_plateau(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Given a rate far too small to move the loss, then the plateau rule acts and patience ends the run."""
    model = network(dataset)
    worse = classification(model, 0.0)
    config = settings(epochs=50, patience=4, schedule="plateau", learning_rate=0.02, augmentation="none")
    history = train(model, dataset, config, tmp_path, loss=lambda images, labels: -worse(images, labels) * 1e-3)
    assert len(history) < 50
    losses = [record["validation_loss"] for record in history]
    assert min(losses) == losses[-5]
    assert history[-1]["learning_rate"] == pytest.approx(0.02 * 0.2, rel=1e-5)


def test_a_diverged_training_says_what_to_lower(dataset: Dataset, tmp_path: Path) -> None:
    model = network(dataset)
    with pytest.raises(UserError, match="training diverged; lower learning_rate"):
        train(model, dataset, settings(), tmp_path, loss=lambda images, labels: model(images)[0, 0] * float("nan"))


def test_weight_decay_shrinks_kernels_that_get_no_gradient(dataset: Dataset, tmp_path: Path) -> None:
    model = network(dataset)
    before = [np.linalg.norm(kernel) for kernel in model.get_weights() if kernel.ndim > 1]
    config = settings(epochs=1, weight_decay=0.5, learning_rate=0.1, schedule="constant")
    train(model, dataset, config, tmp_path, loss=lambda images, labels: 0.0 * classification(model, 0)(images, labels))
    after = [np.linalg.norm(kernel) for kernel in model.get_weights() if kernel.ndim > 1]
    steps = len(dataset.split("train")) // 100
    np.testing.assert_allclose(after, np.array(before) * (1 - 0.05) ** steps, rtol=1e-3)


def test_evaluation_agrees_with_keras(dataset: Dataset) -> None:
    model = network(dataset)
    split: Split = dataset.split("test")
    loss, accuracy = optimise.evaluate(model, split)
    logits = model.predict(split.images.astype(np.float32), verbose=0)
    assert accuracy == pytest.approx((logits.argmax(1) == split.labels).mean())
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    assert loss == pytest.approx(-log_probability[np.arange(len(split)), split.labels].mean(), rel=1e-4)
