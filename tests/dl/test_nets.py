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
        ("convnet", 0.25, 1, 10_898, 903_648),
        ("convnet", 1.0, 3, 331_178, 22_242_432),
        ("stridenet", 1.0, 1, 160_458, 10_545_152),
        ("stridenet", 0.25, 0, 5_466, 434_816),
        ("cnn3", 1.0, 1, 241_546, 7_599_872),
    ],
)
def test_size_is_pinned(architecture: str, width: float, depth: int, parameters: int, macs: int) -> None:
    model = nets.build(architecture, shape=SHAPE, classes=10, width=width, depth=depth)
    assert model.count_params() == parameters
    assert nets.multiply_accumulates(model) == macs


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
