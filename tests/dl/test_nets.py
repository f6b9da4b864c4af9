"""The named networks are what they say: their sizes are facts."""

from __future__ import annotations

import numpy as np
import pytest

from mlapp.dl import nets

SHAPE = (28, 28, 1)


@pytest.mark.parametrize(
    ("architecture", "width", "depth", "parameters", "macs"),
    [
        ("convnet", 1.0, 1, 164_522, 14_113_920),
        ("convnet", 0.25, 1, 11_226, 1_157_664),
        ("convnet", 1.0, 3, 331_178, 22_242_432),
        ("deepnet", 1.0, 1, 285_482, 25_404_160),
        ("poolnet", 1.0, 1, 346_058, 19_647_104),
        ("poolnet", 0.25, 0, 8_026, 565_280),
        ("cnn3", 1.0, 1, 241_546, 7_599_872),
    ],
)
def test_size_is_pinned(architecture: str, width: float, depth: int, parameters: int, macs: int) -> None:
    model = nets.build(architecture, shape=SHAPE, classes=10, width=width, depth=depth)
    assert model.count_params() == parameters
    assert nets.multiply_accumulates(model) == macs


@pytest.mark.parametrize("width", [0.05, 0.3, 0.65, 1.3])
def test_channels_come_by_eights(width: float) -> None:
    model = nets.build("convnet", shape=SHAPE, classes=10, width=width)
    assert all(layer.filters % 8 == 0 for layer in model.layers if hasattr(layer, "filters"))


def test_output_is_one_logit_a_class_and_no_probability() -> None:
    model = nets.build("convnet", shape=(20, 24, 3), classes=7, width=0.125)
    logits = model(np.random.default_rng(0).uniform(0, 255, (4, 20, 24, 3)).astype(np.float32)).numpy()
    assert logits.shape == (4, 7)
    assert not np.allclose(logits.sum(1), 1)


def test_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    first, same, other = (
        nets.build("cnn3", shape=SHAPE, classes=10, width=0.125, seed=seed).get_weights()[0] for seed in (5, 5, 6)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_network_of_both_sides_answers_with_their_mean_and_counts_double() -> None:
    shape = (20, 24, 3)
    plain = nets.build("convnet", shape=shape, classes=7, width=0.125)
    both = nets.build("convnet", shape=shape, classes=7, width=0.125, seed=1, both_sides=True)
    both.set_weights(plain.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (5, *shape)).astype(np.float32)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    mean = (plain(images).numpy() + plain(mirrored).numpy()) / 2
    assert np.allclose(both(images), mean, atol=1e-5)
    assert np.allclose(both(mirrored), mean, atol=1e-5)
    assert not np.allclose(plain(images), mean, atol=1e-3)
    assert both.count_params() == plain.count_params()
    assert nets.multiply_accumulates(both) == 2 * nets.multiply_accumulates(plain)
