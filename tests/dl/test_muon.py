"""Muon: what a step does to each kind of variable, and that halves of a batch make the step of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlapp.dl.backend import keras, tf
from mlapp.dl.losses import classification
from mlapp.dl.muon import is_orthogonalised, muon, orthogonalised
from mlapp.dl.training_step import optimizer_of, step_function
from mlapp.schema import Optimization


def network() -> Any:
    tf.keras.utils.set_random_seed(0)
    image = keras.layers.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="stem")(image)
    x = keras.layers.Conv2D(12, 3, activation="relu", name="inner")(x)
    return keras.Model(image, keras.layers.Dense(4, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any]:
    draws = np.random.default_rng(0)
    return tf.constant(draws.uniform(0, 1, (16, 8, 8, 1)), tf.float32), tf.constant(draws.integers(0, 4, 16), tf.int32)


@pytest.mark.parametrize("shape", [(90, 12), (12, 90), (30, 30)])
def test_orthogonalised_singular_values_are_about_one(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values = np.linalg.svd(orthogonalised(tf.constant(matrix)).numpy(), compute_uv=False)
    assert values.max() < 1.3
    assert np.median(values) > 0.6


def test_orthogonalised_keeps_the_singular_vectors() -> None:
    matrix = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalised(tf.constant(matrix)).numpy() @ right.T
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-3
    assert np.diag(turned).min() > 0


def test_a_kernels_step_is_its_share_of_the_norm_which_stays(batch: tuple[Any, Any]) -> None:
    model = network()
    kernel = model.get_layer("inner").kernel
    before = kernel.numpy()
    step_function(model, classification(model, 0.0), muon(0.01), Optimization())(*batch)
    after = kernel.numpy()
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=1e-5)
    assert np.linalg.norm(after - before) == pytest.approx(0.01 * np.linalg.norm(before), rel=0.01)


def test_all_but_inner_kernels_go_by_nesterovs_sgd(batch: tuple[Any, Any]) -> None:
    ours, theirs = network(), network()
    assert [v.name for v in ours.trainable_variables if is_orthogonalised(v)] == ["inner/kernel:0"]
    for model, optimizer in (
        (ours, muon(0.05, plain_momentum=0.8)),
        (theirs, keras.optimizers.legacy.SGD(0.05, momentum=0.8, nesterov=True)),
    ):
        step = step_function(model, classification(model, 0.0), optimizer, Optimization())
        step(*batch)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        assert np.allclose(one, other, atol=1e-7) != is_orthogonalised(one)


def test_the_optimizer_is_rebuilt_from_its_config() -> None:
    made = muon(0.2, momentum=0.7)
    assert type(made).from_config(made.get_config()).get_config() == made.get_config()


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("towers", [2, 3])
def test_parts_of_a_batch_make_the_step_of_the_whole(batch: tuple[Any, Any], optimizer: str, towers: int) -> None:
    """Without batch normalisation; 16 images do not divide by three."""
    models = [network(), network()]
    losses = []
    for model, parts in zip(models, (1, towers), strict=True):
        config = Optimization(optimizer=optimizer, towers=parts, learning_rate=0.01)
        losses.append(float(step_function(model, classification(model, 0.1), optimizer_of(config), config)(*batch)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        assert np.allclose(one, other, atol=2e-4)
