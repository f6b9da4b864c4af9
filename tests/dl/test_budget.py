"""A byte budget: the widest student that keeps to it, measured on the file that is written."""

from __future__ import annotations

import pytest

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.dl.budget import int8_bytes, widest
from mlapp.dl.exporter import convert
from mlapp.errors import UserError
from mlapp.schema import Network


@pytest.mark.parametrize("network", [Network(architecture="poolnet", depth=2), Network(architecture="convnet")])
def test_the_size_is_that_of_the_trained_networks_file(dataset: Dataset, network: Network) -> None:
    trained = nets.build_for(dataset, network, width=0.25, seed=7)
    trained.compile("sgd", "mse")
    train = dataset.split("train")
    trained.fit(train.images[:64].astype("float32"), train.images[:64, 0, :10, 0], epochs=1, verbose=0)
    assert int8_bytes(dataset, network, 0.25) == pytest.approx(len(convert(trained, train, images=50)), rel=0.01)


def test_the_widest_that_fits_is_found(dataset: Dataset) -> None:
    network = Network(architecture="poolnet")
    width = widest(dataset, network, 1.0, 20_000)
    assert int8_bytes(dataset, network, width) <= 20_000
    assert int8_bytes(dataset, network, width + 0.02) > 20_000


def test_no_wider_than_asked_for(dataset: Dataset) -> None:
    assert widest(dataset, Network(), 0.2, 1_000_000) == 0.2


def test_a_budget_that_nothing_fits_in_is_refused_with_what_the_least_takes(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"max_bytes=1,000 is less than the narrowest convnet of depth 1 takes"):
        widest(dataset, Network(), 0.5, 1000)
