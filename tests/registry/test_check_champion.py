"""A champion that answers another question is told right after the data are there, before anything is trained."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import chain
import numpy as np
import pytest
from shelf import pair

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import gcp_dataloader
from mlapp.etl.idx import Header
from mlapp.registry import check_champion
from mlapp.registry.comparable import refuse_other_questions
from mlapp.registry.pointer import manifest_of
from mlapp.schema import Distillation, Signing, Training
from mlapp.schema_policy import Vetting

CLASSES = tuple("klmnopqrst")
PER_CLASS = "test_images_per_class"


def extracted(
    folder: Path, classes: tuple[str, ...] = CLASSES, shape: tuple[int, ...] = (28, 28), images: int = 400
) -> str:
    """The result of extracting some images of these classes, as many of each."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name, size in (("images", (images, *shape)), ("labels", (images,))):
        values = np.arange(images) % len(classes) if name == "labels" else np.zeros(size)
        content = Header(size).encode() + values.astype(np.uint8).tobytes()
        (source / f"train-{name}-idx{len(size)}-ubyte").write_bytes(content)
    settings = gcp_dataloader.Extract(name="parts", source=str(source), classes=classes)
    return gcp_dataloader.run(settings, folder / "raw").uri


def check(tmp_path: Path, raw: str, **more: Any) -> str:
    config = check_champion.CheckConfig(name=chain.NAME, raw=raw, registry=str(tmp_path / "registry"), **more)
    return check_champion.run(config, tmp_path / "check").headline


@pytest.fixture
def champion(tmp_path: Path, planted_data: Any, planted_teacher: Any, planted_student: Any) -> Path:
    """The folder of a promoted bundle."""
    chain.run(tmp_path, planted_data, planted_teacher, planted_student(3))
    folder = tmp_path / "registry" / chain.NAME
    return folder / (folder / "CHAMPION").read_text().strip()


def test_data_like_the_champions_go_on(champion: Path, tmp_path: Path, planted_data: Any) -> None:
    labels = tuple(json.loads((champion / "labels.json").read_text()))
    shape = tuple(json.loads((champion / "preprocessing.json").read_text())["input_shape"][1:3])
    told = check(tmp_path, extracted(tmp_path / "data", labels, shape))
    assert told.startswith(f"{chain.NAME}/{champion.name}: 10 classes, ")


@pytest.mark.parametrize("case", ["fewer", "more", "another order", "other names", "another shape"])
def test_other_data_are_refused_with_what_to_do(champion: Path, tmp_path: Path, case: str) -> None:
    labels = tuple(json.loads((champion / "labels.json").read_text()))
    shape = tuple(json.loads((champion / "preprocessing.json").read_text())["input_shape"][1:3])
    changed = {"fewer": labels[:-1], "more": (*labels, "new"), "another order": labels[::-1], "other names": CLASSES}
    size = (shape[0] + 1, shape[1]) if case == "another shape" else shape
    raw = extracted(tmp_path / "data", changed.get(case, labels), size)
    with pytest.raises(UserError, match=r"the champion .*: promote this model under another promotion\.name"):
        check(tmp_path, raw)


def test_without_a_champion_anything_goes(tmp_path: Path) -> None:
    assert check(tmp_path, extracted(tmp_path / "data")) == f"{chain.NAME} has no champion yet"


def test_too_few_images_for_the_epochs_of_any_network_are_refused(tmp_path: Path) -> None:
    """The students' epochs as well as the teacher's: they would be refused once the teacher is trained."""
    raw, few, enough = extracted(tmp_path / "data", images=40), {"epochs": 8}, {"epochs": 100}
    for teacher, students in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=r"set training\.epochs and distillation\.epochs to 34 or more"):
            check(tmp_path, raw, training=Training(**teacher), distillation=Distillation(**students))
    check(tmp_path, raw, training=Training(**enough), distillation=Distillation(**enough))


def test_too_few_test_images_for_the_policy_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The verdict on a test split of 57 images is known before anything is trained."""
    raw = extracted(tmp_path / "data")
    with caplog.at_level(logging.WARNING, "mlapp"):
        check(tmp_path, raw)
        assert "the verdict will be hold whatever is trained: test_images is 57, and the policy standard" in caplog.text
        assert "test_images_per_class is 6" in caplog.text
        caplog.clear()
        check(tmp_path, raw, vetting=Vetting(gates={"test_images": {"at_least": 57}, PER_CLASS: {"otherwise": "note"}}))
    assert not caplog.text


@pytest.mark.parametrize("name", ["labels.json", "preprocessing.json", "manifest.json"])
def test_a_champion_that_was_altered_is_told(champion: Path, tmp_path: Path, name: str) -> None:
    text = (champion / name).read_text()
    labels = tuple(json.loads((champion / "labels.json").read_text()))
    (champion / name).write_text(text.replace("1", "2") if "1" in text else text.replace("a", "b"))
    with pytest.raises(UserError, match="altered"):
        check(tmp_path, extracted(tmp_path / "data", labels))


def test_a_champion_without_the_signature_that_is_asked_for_is_told(champion: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not signed"):
        check(tmp_path, extracted(tmp_path / "data"), signing=Signing(public_key=pair(tmp_path, "theirs").public_key))


def test_the_champion_that_ships_is_asked_the_same_question() -> None:
    place = manifest_of("production_models", "fashion_mnist", "569c5f76290e")
    assert place
    classes = tuple(json.loads(storage.read_text(place.parent / "labels.json")))
    refuse_other_questions(place.parent, classes, (28, 28, 1))
