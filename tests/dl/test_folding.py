"""A folded network answers as the one it was made of, and holds no normalisation that a convolution could take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlapp.dl.backend import keras
from mlapp.dl.folding import folded

IMAGES = np.random.default_rng(0).uniform(0, 1, (8, 13, 14, 3)).astype(np.float32)


def scrambled(model: Any, lowest_scale: float = 0.2) -> Any:
    """The network with random weights; scales of normalisations from ``lowest_scale`` up."""
    draw = np.random.default_rng(1)
    for layer in model.layers:
        weights = [draw.uniform(0.2, 1.5, weight.shape) for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            weights[0] = draw.uniform(lowest_scale, 1.5, weights[0].shape)
        layer.set_weights(weights)
    return model


def network(*between: Any, activation: str = "linear", use_bias: bool = False, **normalisation: Any) -> Any:
    """A convolution, what comes between, and a normalisation."""
    image = keras.layers.Input(IMAGES.shape[1:])
    x = keras.layers.Conv2D(5, 3, activation=activation, use_bias=use_bias)(image)
    for layer in between:
        x = layer(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(**normalisation)(x))
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


def normalisations(model: Any) -> int:
    return sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


def agree(first: Any, second: Any) -> None:
    expected = first(IMAGES, training=False).numpy()
    np.testing.assert_allclose(second(IMAGES, training=False).numpy(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("normalisation", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize(
    "between",
    [(), ("AveragePooling2D",), ("MaxPooling2D",), ("MaxPooling2D", "AveragePooling2D")],
    ids=lambda names: "-".join(names) or "straight",
)
def test_it_folds_through_poolings(between: tuple[str, ...], normalisation: dict[str, bool], use_bias: bool) -> None:
    model = scrambled(network(*(getattr(keras.layers, name)() for name in between), use_bias=use_bias, **normalisation))
    twin = folded(model)
    assert (normalisations(model), normalisations(twin)) == (1, 0)
    agree(model, twin)


def test_a_mean_at_the_edge_of_an_image_counts_no_padding() -> None:
    model = scrambled(network(keras.layers.AveragePooling2D(3, 2, padding="same")))
    twin = folded(model)
    assert normalisations(twin) == 0
    agree(model, twin)


@pytest.mark.parametrize(
    ("model", "lowest_scale"),
    [
        (lambda: network(keras.layers.MaxPooling2D()), -1.5),  # a maximum of negated values is no negated maximum
        (lambda: network(activation="relu"), 0.2),
        (lambda: network(keras.layers.ReLU()), 0.2),
    ],
    ids=["negative scale behind a maximum", "activation of the convolution", "activation between"],
)
def test_what_cannot_be_folded_stays(model: Any, lowest_scale: float) -> None:
    built = scrambled(model(), lowest_scale)
    twin = folded(built)
    assert normalisations(twin) == 1
    agree(built, twin)


def test_channels_that_someone_else_sees_too_stay_as_they_are() -> None:
    image = keras.layers.Input(IMAGES.shape[1:])
    made = keras.layers.Conv2D(5, 3)(image)
    both = keras.layers.Add()([keras.layers.BatchNormalization()(made), made])
    model = scrambled(keras.Model(image, keras.layers.GlobalAveragePooling2D()(both)))
    twin = folded(model)
    assert normalisations(twin) == 1
    agree(model, twin)
