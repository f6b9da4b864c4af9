"""A teacher's answers: computed once, about these very data, of both sides where images are mirrored in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.dataset import Dataset
from mlapp.dl import answers, nets
from mlapp.dl.answers import ARTIFACT, answers_of, taught
from mlapp.dl.feed import training_batches


class Result:
    """What `taught` asks of a teacher's result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.artifacts = {ARTIFACT: path}

    def local(self, name: str) -> Path:
        assert name == ARTIFACT
        return self.path


@pytest.fixture
def network() -> Any:
    return nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.125, seed=3)


@pytest.fixture
def written(dataset: Dataset, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The answers in a file that every teacher's result leads to."""
    path = answers.write(network, dataset, tmp_path)
    monkeypatch.setattr(answers.StageResult, "load", lambda uri: Result(path))
    return path


def test_both_sides_of_every_image_are_answered_in_order(dataset: Dataset, network: Any) -> None:
    train = dataset.split("train")
    plain, mirrored = answers_of(network, train)
    images = train.images.astype(np.float32)
    np.testing.assert_allclose(plain, network(images), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(mirrored, network(images[:, :, ::-1]), rtol=2e-3, atol=2e-3)


def test_a_network_of_both_sides_is_asked_once_an_image(dataset: Dataset) -> None:
    network = nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.125, seed=3, both_sides=True)
    train, asked = dataset.split("train"), []

    class Counted:
        layers = network.layers

        def __call__(self, images: Any, training: bool) -> Any:
            asked.append(images.shape)
            return network(images, training=training)

    plain, mirrored = answers_of(Counted(), train)
    np.testing.assert_array_equal(plain, mirrored)
    np.testing.assert_allclose(mirrored, network(train.images.astype(np.float32)[:, :, ::-1]), rtol=2e-3, atol=2e-3)
    assert len(asked) == len(set(asked))


def test_students_that_see_both_sides_learn_from_the_mean_of_both(
    dataset: Dataset, network: Any, written: Path
) -> None:
    plain, mirrored = answers_of(network, dataset.split("train")).astype(np.float32)
    np.testing.assert_array_equal(taught(dataset, "-", "none").answers, plain)
    np.testing.assert_allclose(taught(dataset, "-", "light").answers, (plain + mirrored) / 2, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("reason", ["other data", "no answers"])
def test_a_teacher_of_other_data_or_without_answers_is_asked_anew(
    dataset: Dataset, written: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    other = nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.125, seed=4)
    monkeypatch.setattr(answers, "load_from", lambda uri, dataset: other)
    if reason == "other data":
        monkeypatch.setattr(answers, "content_digest", lambda result: "other data")
    else:
        monkeypatch.setattr(answers, "ARTIFACT", "what it has not")
    expected = answers_of(other, dataset.split("train"))[0]
    np.testing.assert_array_equal(taught(dataset, "-", "none").answers, expected)


def test_each_image_of_a_batch_comes_with_its_own_answer(dataset: Dataset, written: Path) -> None:
    train = taught(dataset, "-", "none")
    assert train.answers is not None
    by_image = {image.tobytes(): answer for image, answer in zip(train.images, train.answers, strict=True)}
    batches = training_batches(train, batch_size=50, augmentation="none", seed=1, first_step=0, steps=3)
    for images, (labels, given) in batches:
        for image, answer in zip(images.numpy().astype(np.uint8), given.numpy(), strict=True):
            np.testing.assert_array_equal(by_image[image.tobytes()], answer)
        assert labels.shape == (50,)
