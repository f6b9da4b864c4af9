"""Batches fit the number of images, nothing is mirrored unasked, and a training that learnt nothing fails."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlapp import config as configuration
from mlapp import storage
from mlapp.class_scores import class_scores
from mlapp.dataset import Dataset, Split
from mlapp.dl import dnn_trainer
from mlapp.dl.adapt import adapt_to_data
from mlapp.dl.augment import POLICIES, policy_of
from mlapp.dl.dnn_trainer import DnnTrainerConfig
from mlapp.dl.report import doubt, require_learnt
from mlapp.errors import UserError
from mlapp.etl import gcp_dataloader, image_etl, quality
from mlapp.result import StageResult
from mlapp.schema import Distillation, Pruning, Training


def of(dataset: Dataset, images: int, name: str = "shapes") -> Dataset:
    splits = {"train": {"images": images, "per_class": {"a": images // 2, "b": images - images // 2}}}
    return replace(dataset, name=name, description={"splits": splits})


@pytest.fixture(scope="module")
def planted(planted_data: StageResult) -> Dataset:
    return Dataset.open(planted_data.uri)


@pytest.mark.parametrize(
    ("images", "batch", "fitting"),
    [(55_000, 128, 128), (896, 128, 128), (895, 128, 64), (300, 128, 16), (118, 128, 8), (104, 9, 9), (840, 120, 120)],
)
def test_a_batch_leaves_an_epoch_seven_steps(planted: Dataset, images: int, batch: int, fitting: int) -> None:
    config = adapt_to_data(Training(batch_size=batch), of(planted, images))
    assert config.batch_size == fitting
    assert adapt_to_data(config, of(planted, images)) == config


def test_a_batch_has_an_image_for_every_tower(planted: Dataset) -> None:
    assert adapt_to_data(Training(towers=64, batch_size=8), of(planted, 55_000)).towers == 8
    assert adapt_to_data(Training(towers=16), of(planted, 118)).towers == 8


@pytest.mark.parametrize("images", [47, 20, 5])
def test_too_few_images_for_the_epochs_are_refused_with_what_to_set(planted: Dataset, images: int) -> None:
    with pytest.raises(
        UserError, match=rf"{images} training images make .* 100 are needed: set training.epochs and"
    ) as told:
        adapt_to_data(Training(epochs=8), of(planted, images))
    epochs = int(str(told.value).split("distillation.epochs to ")[1].split()[0])
    assert adapt_to_data(Training(epochs=epochs), of(planted, images)).batch_size == 8
    assert adapt_to_data(Pruning(epochs=1), of(planted, images)).batch_size == 8


@pytest.mark.parametrize("preset", [name for name in configuration.preset_names() if name != "smoke"])
def test_nothing_changes_for_fashion_mnist(planted: Dataset, preset: str) -> None:
    config = configuration.load(preset, {}, {})
    for section in (config.training, config.distillation, config.pruning):
        assert adapt_to_data(section, of(planted, 55_000, "fashion_mnist")) == section


def test_nothing_changes_for_the_smoke_preset(planted: Dataset) -> None:
    config = configuration.load("smoke", {}, {})
    for section in (config.training, config.distillation, config.pruning):
        assert adapt_to_data(section, of(planted, 917, "fashion_mnist")) == section


def test_other_data_are_mirrored_only_where_asked_for(planted: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    """Arrows to the left and to the right are each other's mirror images."""
    with caplog.at_level(logging.WARNING, "mlapp"):
        plain = adapt_to_data(Training(), of(planted, 5000))
    assert "no image is mirrored in training, as shapes may differ left and right: see flip" in caplog.text
    assert plain.flip is False
    assert not policy_of(plain.augmentation, plain.flip).mirrors
    assert policy_of("light", False).shift == POLICIES["light"].shift
    assert policy_of("none", True).mirrors
    assert policy_of("light", None) == POLICIES["light"]
    asked = adapt_to_data(Training(flip=True), of(planted, 5000))
    assert policy_of(asked.augmentation, asked.flip) == POLICIES["light"]
    assert adapt_to_data(Distillation(), of(planted, 5000, "fashion_mnist")).flip is None


def records(*accuracies: float, loss: tuple[float, float] = (1.0, 0.5)) -> list[dict[str, float]]:
    losses = np.linspace(*loss, len(accuracies))
    return [
        {"loss": each, "validation_loss": each, "validation_accuracy": accuracy}
        for each, accuracy in zip(losses.tolist(), accuracies, strict=True)
    ]


def test_a_training_that_learnt_nothing_or_diverged_is_refused(
    planted: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten classes: guessing gives 10 %, and a validation loss of 2.3."""
    config, few = Training(batch_size=50), Training(batch_size=128)
    require_learnt(records(0.1, 0.2), planted, config)
    require_learnt(records(0.3, 0.5, loss=(0.01, 0.4)), planted, config)
    require_learnt(records(0.05, 0.1), planted, few)
    assert "has learnt nothing: 10.0 % on validation" in caplog.text
    with pytest.raises(UserError, match=r"learnt nothing: 10\.0 % on validation at best, and guessing among 10"):
        require_learnt(records(0.05, 0.1), planted, config)
    with pytest.raises(UserError, match=r"learnt nothing: 10\.6 % on validation at best"):
        require_learnt(records(0.1, 0.106), planted, config)
    with pytest.raises(UserError, match=r"learnt nothing: 10\.5 % on validation at best"):
        require_learnt([{**records(0.9)[0], "preliminary": 1.0}, *records(0.105)], planted, config)
    with pytest.raises(UserError, match=r"the loss rose from 6 to 48: training diverged; lower learning_rate"):
        require_learnt(records(0.3, 0.2, loss=(6.0, 48.0)), planted, config)


def test_the_headline_says_where_validation_images_show_nothing(planted: Dataset) -> None:
    assert doubt(records(0.2, 0.5), planted) == []
    images = len(planted.split("validation"))
    assert doubt(records(0.105), planted) == [f"no better than luck may be on {images:,} validation images"]


def test_uneven_classes_get_a_balanced_accuracy_and_their_worst_class(planted: Dataset) -> None:
    labels = np.repeat(np.arange(2, dtype=np.uint8), [19, 1])
    images = np.zeros((20, 2, 2, 1), np.uint8)

    class Uneven(Dataset):
        def split(self, name: str) -> Split:
            return Split(images, labels)

    description = {"splits": {"train": {"per_class": {"a": 300, "b": 15}}}}
    dataset = Uneven("x", ("a", "b"), (2, 2, 1), description, planted.result)
    found = class_scores(dataset, lambda images: np.tile(np.float32([1, 0]), (len(images), 1)))
    assert found is not None
    assert found.line == "uneven classes: balanced accuracy 50.00 %, worst class b 0.0 % of 1"
    assert found.metrics["worst_class_recall"].n == 1
    assert class_scores(planted, lambda images: images) is None


def test_a_hundred_pictures_are_learnt_with_the_default_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bars at the left and at the right, each other's mirror images, and four times as many of one class."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(110):
        side = int(number % 5 == 0)
        pixels = draw.integers(0, 60, (28, 28)).astype(np.uint8)
        start = draw.integers(2, 8) + 14 * side
        pixels[4:24, start : start + 4] = 250
        place = tmp_path / "bars" / ("left", "right")[side] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    extract = gcp_dataloader.Extract(name="bars", source=f"{tmp_path}/bars")
    raw = gcp_dataloader.run(extract, tmp_path / "raw").uri
    report = quality.run(quality.Validate(raw=raw), tmp_path / "quality").uri
    transform = image_etl.Transformation(raw=raw, report=report, validation_fraction=0.2)
    data = image_etl.run(transform, tmp_path / "data").uri

    found = dnn_trainer.run(DnnTrainerConfig(data=data, width=0.25), tmp_path / "train")

    assert found.config["batch_size"] == 8
    assert found.config["flip"] is False
    assert "batch_size 8 instead of 128" in caplog.text
    assert found.metrics["balanced_accuracy"].value >= 0.9
    assert "uneven classes: balanced accuracy" in found.headline
    assert found.headline.endswith("; not mirrored")
    history = storage.read_text(found.artifact("history"))
    assert "NaN" not in history
