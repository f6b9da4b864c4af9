"""The exported files: full-integer int8 beside float, and figures measured on what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.candidate import Candidate
from mlapp.dataset import Dataset
from mlapp.dl import exporter, keras_model
from mlapp.errors import UserError
from mlapp.schema import Export
from mlapp.vetting.scorer import score

SETTINGS = Export(representative_images=50, latency_runs=20)


@pytest.fixture
def exported(tiny: Any, dataset: Dataset, tmp_path: Path) -> tuple[dict[str, Path], list[Candidate]]:
    return exporter.export(tiny, dataset, SETTINGS, tmp_path, name="tiny", kind="student", description="for this test")


def tensors(path: Path) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return [detail["dtype"] for detail in interpreter.get_tensor_details()]


def test_the_int8_file_computes_in_integers_only(exported: Any) -> None:
    artifacts, _ = exported
    assert np.float32 not in tensors(artifacts["int8"])
    assert np.float32 in tensors(artifacts["float32"])


def test_the_float_file_answers_as_keras_does(exported: Any, tiny: Any, dataset: Dataset) -> None:
    artifacts, _ = exported
    images = np.asarray(dataset.split("test").images[:50])
    expected = tiny.predict(images.astype(np.float32), verbose=0)
    np.testing.assert_allclose(score(artifacts["float32"], images), expected, atol=1e-3 * np.abs(expected).max())
    error = np.abs(score(artifacts["int8"], images) - expected)
    assert error.mean() < 0.1 * np.abs(expected).max()


def test_candidates_say_what_was_measured_through_litert(exported: Any, tiny: Any, dataset: Dataset) -> None:
    artifacts, candidates = exported
    validation = dataset.split("validation")
    assert [Candidate(**entry) for entry in json.loads(artifacts["candidates"].read_text())] == candidates
    for candidate in candidates:
        path = artifacts[candidate.artifact]
        hits = (score(path, validation.images).argmax(1) == validation.labels).sum()
        assert candidate.validation_accuracy.value == hits / len(validation)
        assert candidate.validation_accuracy.n == len(validation)
        assert candidate.bytes == path.stat().st_size
        assert candidate.latency_us.value > 0
        assert candidate.parameters == tiny.count_params() >= candidate.nonzero_parameters
    assert candidates[1].bytes < candidates[0].bytes


def test_the_network_file_reads_back_the_same(exported: Any, tiny: Any) -> None:
    artifacts, _ = exported
    again = keras_model.load(artifacts["network"])
    assert all(np.array_equal(a, b) for a, b in zip(tiny.get_weights(), again.get_weights(), strict=True))


def test_a_damaged_network_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "network.safetensors").write_bytes(b"PK not a model")
    with pytest.raises(UserError, match="not a file of arrays that this version reads"):
        keras_model.load(tmp_path / "network.safetensors")


def test_the_model_is_copied_to_where_vertex_ai_wants_it(
    tiny: Any, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIP_MODEL_DIR", str(tmp_path / "vertex"))
    artifacts, _ = exporter.export(
        tiny, dataset, SETTINGS, tmp_path, name="tiny", kind="student", description="for this test"
    )
    copies = {path.name: path.read_bytes() for path in (tmp_path / "vertex").iterdir()}
    assert copies == {path.name: path.read_bytes() for path in artifacts.values()}


def test_a_network_that_died_in_training_is_told_before_the_conversion_aborts(
    tiny: Any, dataset: Dataset, tmp_path: Path
) -> None:
    from mlapp.dl.backend import keras

    dead = keras.models.clone_model(tiny)
    dead.set_weights([np.zeros_like(weight) for weight in tiny.get_weights()])
    with pytest.raises(UserError, match="the same answer: training failed; lower learning_rate"):
        exporter.export(dead, dataset, SETTINGS, tmp_path, name="dead", kind="teacher", description="for this test")
