"""Scoring through LiteRT: raw pixels in, the planted answers out, in both precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest

from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.vetting.scorer import latency_us, score


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("n", [1, 250, 777])
def test_planted_errors_are_found_exactly(planted_student: Any, precision: str, n: int) -> None:
    split = planted.images(n)
    answers = score(planted_student(3, 8).local(precision), split.images).argmax(1)
    groups = 2 * split.labels + (np.arange(n) // 10) % 2
    expected = np.where(np.isin(groups, (3, 8)), (split.labels + 1) % 10, split.labels)
    assert np.array_equal(answers, expected)


def test_int8_scores_are_dequantised(planted_student: Any) -> None:
    student: StageResult = planted_student(3, 8)
    images = planted.images(50).images
    exact, rounded = (score(student.local(precision), images) for precision in ("float32", "int8"))
    assert np.abs(exact - rounded).max() < 0.05
    assert rounded.dtype == np.float32


def test_latency_is_a_median_with_its_interval(planted_student: Any) -> None:
    metric = latency_us(planted_student(3, 8).local("int8"), planted.images(1).images[0], runs=50)
    assert metric.n == 50
    assert 0 < metric.low <= metric.value <= metric.high  # type: ignore[operator]
    assert metric.unit == "µs"


def test_another_image_shape_is_told(planted_student: Any) -> None:
    with pytest.raises(UserError, match="takes images of shape 8×8×1, the data set has 28×28×1"):
        score(planted_student(3, 8).local("int8"), np.zeros((2, 28, 28, 1), np.uint8))


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"not a flatbuffer at all")
    with pytest.raises(UserError, match="is not a LiteRT model that can be run"):
        score(tmp_path / "model.tflite", np.zeros((2, 8, 8, 1), np.uint8))


def test_a_model_that_takes_scaled_pixels_is_refused(tmp_path: Path) -> None:
    """Given a calibration that never saw white, when its range is left as it is, then raw pixels would be misread."""
    from mlapp.dl.backend import tf

    converter = tf.lite.TFLiteConverter.from_keras_model(planted.model([]))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [planted.images(9).images[i : i + 1].astype(np.float32)] for i in range(9)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    with pytest.raises(UserError, match=r"does not take pixels 0\.\.255 as they are"):
        score(tmp_path / "model.tflite", planted.images(2).images)
