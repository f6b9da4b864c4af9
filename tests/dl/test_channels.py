"""Filter pruning really removes filters: the rebuilt network equals the masked one to float precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlapp.dl import nets
from mlapp.dl.backend import keras
from mlapp.dl.channels import ChannelGraph, choose_filters, mask, rebuild
from mlapp.errors import UserError


def scrambled(architecture: str, width: float = 0.5) -> Any:
    """A network whose weights, normalisation statistics included, are all random."""
    model = nets.build(architecture, shape=(28, 28, 1), classes=10, width=width)
    draw = np.random.default_rng(3)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([draw.uniform(0.5, 1.5, shape) for shape in shapes])
        elif shapes:
            layer.set_weights([draw.normal(0, 0.1, shape) for shape in shapes])
    return model


@pytest.mark.parametrize("architecture", ["convnet", "deepnet", "poolnet", "cnn3"])
@pytest.mark.parametrize("sparsity", [0.25, 0.6, 0.99])
def test_rebuilt_network_equals_the_masked_one(architecture: str, sparsity: float) -> None:
    model = scrambled(architecture)
    kept = choose_filters(model, sparsity)
    images = np.random.default_rng(0).uniform(0, 255, (16, 28, 28, 1)).astype(np.float32)

    rebuilt, masked = rebuild(model, kept)(images).numpy(), mask(model, kept)(images).numpy()

    assert np.abs(model(images).numpy() - masked).max() > 0.1 * np.abs(masked).max()
    np.testing.assert_allclose(rebuilt, masked, rtol=0, atol=2e-5 * np.abs(masked).max())


def test_removing_half_of_the_filters_removes_about_three_quarters_of_the_work() -> None:
    model = scrambled("convnet", width=1.0)
    narrow = rebuild(model, choose_filters(model, 0.5))
    assert narrow.get_layer("widen3").filters == 48
    assert narrow.count_params() < 0.27 * model.count_params()
    assert nets.multiply_accumulates(narrow) < 0.27 * nets.multiply_accumulates(model)


def test_the_normalisation_behind_a_pooling_counts_too() -> None:
    model = scrambled("convnet")
    gamma, *others = model.get_layer("widen1_bn").get_weights()
    gamma[[2, 7]] *= 1e-3
    model.get_layer("widen1_bn").set_weights([gamma, *others])
    kept = choose_filters(model, 2 / len(gamma))["widen1"]
    assert sorted(set(range(len(gamma))) - set(kept)) == [2, 7]


def test_layers_joined_by_an_addition_lose_the_same_channels() -> None:
    graph = ChannelGraph.of(scrambled("convnet"))
    assert graph.group("widen3") == graph.group("block1") != graph.group("widen2")
    assert set(graph.prunable()) == {graph.group(name) for name in ("stem", "widen1", "widen2", "widen3")}


def test_the_least_important_filters_go_first() -> None:
    model = scrambled("cnn3")
    kernel, bias = model.get_layer("conv2").get_weights()
    kernel[..., [1, 5]] *= 1e-3
    model.get_layer("conv2").set_weights([kernel, bias])
    kept = choose_filters(model, 2 / kernel.shape[-1])["conv2"]
    assert sorted(set(range(kernel.shape[-1])) - set(kept)) == [1, 5]


def test_the_original_network_is_left_as_it_was() -> None:
    model = scrambled("convnet")
    before = model.get_weights()
    kept = choose_filters(model, 0.5)
    mask(model, kept)
    rebuild(model, kept)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("layer", "gist"),
    [
        (lambda: keras.layers.Conv2D(4, 3, activation="sigmoid", name="odd"), "odd has activation sigmoid"),
        (lambda: keras.layers.UpSampling2D(name="odd"), "cannot trace channels through layer odd"),
    ],
)
def test_a_layer_that_cannot_be_traced_is_named(layer: Any, gist: str) -> None:
    image = keras.layers.Input((8, 8, 1))
    model = keras.Model(image, keras.layers.Flatten()(layer()(image)))
    with pytest.raises(UserError, match=gist):
        choose_filters(model, 0.5)
