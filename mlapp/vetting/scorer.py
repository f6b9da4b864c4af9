"""Score a LiteRT model the way it will be used: raw uint8 images in, dequantised class scores out.

Every accuracy that the project reports, before and after promotion, comes through this one path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError
from mlapp.quiet import quiet
from mlapp.result import Metric
from mlapp.statistics import median_interval
from mlapp.vetting import litert_check

BATCH = 250
WARM_UP = 20
MOST_CLASSES = 256


def score(model: Path, images: npt.NDArray[np.uint8], threads: int = 1) -> npt.NDArray[np.float32]:
    """Class scores (n, classes) of ``images`` (n, height, width, channels) uint8, in the order of the images.

    An int8 model is fed the bytes themselves and its output dequantised; a float32 model is fed the pixels as 0..255.
    Scores are logits or probabilities, as the model was exported: their argmax decides.
    """
    interpreter = _open(model, threads)
    [entry], [leave] = interpreter.get_input_details(), interpreter.get_output_details()
    if tuple(entry["shape"][1:]) != images.shape[1:]:
        raise UserError(
            f"{model} takes images of shape {_shape(entry['shape'][1:])}, the data set has {_shape(images.shape[1:])}: "
            "score a model that was made from this data set"
        )
    batch = BATCH if entry["shape_signature"][0] == -1 else 1
    scores = np.empty((len(images), leave["shape"][-1]), np.float32)
    try:
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            if len(chunk) != interpreter.get_input_details()[0]["shape"][0]:
                interpreter.resize_tensor_input(entry["index"], chunk.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(entry["index"], np.ascontiguousarray(chunk, entry["dtype"]))
            interpreter.invoke()
            scores[start : start + batch] = _dequantised(interpreter.get_tensor(leave["index"]), leave)
    except (ValueError, RuntimeError) as error:
        raise _cannot_run(model, error) from error
    return scores


def latency_us(model: Path, image: npt.NDArray[np.uint8], runs: int) -> Metric:
    """Median time of one ``image`` (height, width, channels) or (1, …) on one thread, in microseconds."""
    interpreter = _open(model, threads=1)
    [entry] = interpreter.get_input_details()
    pixels = np.ascontiguousarray(image, entry["dtype"]).reshape(entry["shape"])
    interpreter.set_tensor(entry["index"], pixels)
    return median_us(interpreter.invoke, runs)


def median_us(infer: Callable[[], object], runs: int) -> Metric:
    """Median time of a call in microseconds.

    ``runs`` single calls are timed after a warm-up; the interval is the distribution-free 95 % one of the median.
    """
    times = np.empty(runs)
    for run in range(-WARM_UP, runs):
        start = time.perf_counter_ns()
        infer()
        times[max(run, 0)] = (time.perf_counter_ns() - start) / 1e3
    low, high = median_interval(times)
    return Metric(value=round(float(np.median(times)), 2), n=runs, low=round(low, 2), high=round(high, 2), unit="µs")


def _open(model: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    if wrong := litert_check.trouble(model):
        raise _cannot_run(model, wrong)
    try:
        with quiet():
            interpreter = Interpreter(model_path=str(model), num_threads=threads)
            interpreter.allocate_tensors()
        entries, leaves = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise _cannot_run(model, error) from error
    if len(entries) != 1 or len(leaves) != 1 or entries[0]["dtype"] not in (np.uint8, np.float32):
        raise UserError(f"{model} must take one batch of uint8 or float32 images and give one batch of class scores")
    if len(leaves[0]["shape"]) != 2 or not 1 <= leaves[0]["shape"][-1] <= MOST_CLASSES:
        raise UserError(f"{model} must give 1 to {MOST_CLASSES} scores for each image, as uint8 labels can name")
    if entries[0]["dtype"] == np.uint8 and entries[0]["quantization"] != (1.0, 0):
        raise UserError(f"{model} does not take pixels 0..255 as they are, but scaled: export it again")
    return interpreter


def _cannot_run(model: Path, reason: Exception | str) -> UserError:
    why = " ".join(str(reason).split())[:300]
    return UserError(f"{model} is not a LiteRT model that can be run ({why}): export it again")


def _dequantised(values: npt.NDArray[Any], details: dict[str, Any]) -> npt.NDArray[np.float32]:
    scores = values.astype(np.float32)
    scale, zero = details["quantization"]
    return scores if values.dtype == np.float32 else (scores - np.float32(zero)) * np.float32(scale)


def _shape(shape: Any) -> str:
    return "×".join(str(int(side)) for side in shape)
