"""The champions that come with the project are whole, small, as accurate as their cards say, and tell of no machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlapp.etl.raw_data import open_raw
from mlapp.registry import catalogue, integrity
from mlapp.vetting.scorer import score

REGISTRY = Path(__file__).parents[2] / "production_models"
SHIPPED = {"fashion_mnist": 100_000, "fashion_mnist_tiny": 32_000}
TEXTS = {".json", ".jsonl", ".md", ".html", ""}
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|Users|usr|opt|data|mnt)/")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_bundle_pointer_and_history_are_whole(name: str) -> None:
    assert integrity.damage(str(REGISTRY), name) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_it_keeps_to_its_bytes(name: str) -> None:
    champion = catalogue.find(str(REGISTRY), name, None)
    assert champion.scored["bytes"] <= SHIPPED[name]
    assert sum(file.bytes for file in champion.manifest.files.values()) < 1_500_000


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_tells_of_the_machine_that_made_it(name: str) -> None:
    files = [path for path in (REGISTRY / name).rglob("*") if path.is_file() and path.suffix in TEXTS]
    assert {path.name for path in files} >= {"CHAMPION", "HISTORY.jsonl", "manifest.json", "MODEL_CARD.md"}
    assert [path.name for path in files if OF_A_MACHINE.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_real_test_images_give_the_accuracy_of_the_verdict(name: str, raw_uri: str) -> None:
    champion = catalogue.find(str(REGISTRY), name, None)
    folder = REGISTRY / name / champion.manifest.id
    with open_raw(raw_uri) as raw:
        assert json.loads((folder / "labels.json").read_text(encoding="utf-8")) == list(raw.classes)
        images, labels = raw.parts["test"].images, raw.parts["test"].labels
        found = score(folder / champion.manifest.model, images.reshape(len(images), *images.shape[1:3], -1)).argmax(-1)
    told = champion.scored["accuracy"]
    # Processors round a few sums otherwise, which may tip an image that stood between two classes.
    assert (found == labels).mean() == pytest.approx(told["value"], abs=5 / told["n"])
