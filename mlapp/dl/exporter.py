"""Export a Keras model to LiteRT, float and full-integer int8, and measure what was written, not what was trained.

Both files take one raw image batch, pixels 0..255 (float32 or uint8), and give logits (float32 or int8).
"""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp import storage
from mlapp.candidate import Candidate, Kind, Precision, write_candidates
from mlapp.dataset import Dataset, Split
from mlapp.dl.backend import tf
from mlapp.dl.folding import folded
from mlapp.dl.keras_model import save, write_keras
from mlapp.dl.nets import multiply_accumulates
from mlapp.dl.network_file import NETWORK
from mlapp.errors import UserError
from mlapp.quiet import quiet
from mlapp.schema import Export
from mlapp.statistics import proportion
from mlapp.vetting import litert_check
from mlapp.vetting.scorer import latency_us, score

log = logging.getLogger("mlapp")


def export(
    model: Any, dataset: Dataset, config: Export, folder: Path, *, name: str, kind: Kind, description: str
) -> tuple[dict[str, Path], list[Candidate]]:
    """Write the network and both LiteRT files to ``folder``; return the artifacts and the measured candidates.

    The network is written twice: ``network.safetensors`` for later stages, ``model.keras`` for people.
    """
    train, validation = dataset.split("train"), dataset.split("validation")
    artifacts = {NETWORK: folder / "network.safetensors", "keras": folder / "model.keras"}
    save(model, artifacts[NETWORK])
    write_keras(model, artifacts["keras"])
    candidates = []
    precisions: tuple[Precision, ...] = ("float32", "int8")
    for precision in precisions:
        path = artifacts[precision] = folder / f"model.{precision}.tflite"
        with storage.atomic_file(path) as draft:
            draft.write_bytes(convert(model, train if precision == "int8" else None, config.representative_images))
        litert_check.own(path)
        logits = score(path, validation.images)
        if precision == "float32":
            _check_alive(logits)
        hits = logits.argmax(-1) == validation.labels
        candidate = Candidate(
            name=name,
            kind=kind,
            precision=precision,
            artifact=precision,
            bytes=path.stat().st_size,
            compressed_bytes=len(gzip.compress(path.read_bytes(), mtime=0)),
            parameters=model.count_params(),
            nonzero_parameters=sum(int(np.count_nonzero(weight)) for weight in model.get_weights()),
            macs=multiply_accumulates(model),
            validation_accuracy=proportion(int(hits.sum()), len(hits)),
            latency_us=latency_us(path, validation.images[0], config.latency_runs),
            description=description,
        )
        log.info("%s", summary(candidate))
        candidates.append(candidate)
    artifacts["candidates"] = write_candidates(candidates, folder)
    _publish(artifacts)
    return artifacts, candidates


def convert(model: Any, representative: Split | None = None, images: int = 500) -> bytes:
    """A LiteRT flatbuffer: full-integer int8 when ``representative`` images set the ranges, float32 otherwise."""
    converter = tf.lite.TFLiteConverter.from_keras_model(folded(model))
    if representative is not None:
        chosen = np.linspace(0, len(representative) - 1, min(images, len(representative)), dtype=np.int64)

        def samples() -> Iterator[list[Any]]:
            for index in chosen:
                sample = representative.images[index : index + 1].astype(np.float32)
                if index == chosen[0]:
                    # One dark and one bright corner: the input's range is 0..255 whatever the images, its scale 1.
                    sample[0, 0, 0], sample[0, -1, -1] = 0, 255
                yield [sample]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = samples
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.int8
    with quiet():
        return bytes(converter.convert())


def _check_alive(logits: npt.NDArray[np.float32]) -> None:
    """Refuse a network that died in training: it answers the same to every image, and the int8 conversion aborts."""
    if not np.isfinite(logits).all() or np.ptp(logits, axis=0).max() <= 1e-5 * np.abs(logits).max():
        raise UserError("the network gives every image the same answer: training failed; lower learning_rate")


def _publish(artifacts: dict[str, Path]) -> None:
    """Copy the model to where Vertex AI expects it, when it names a place (``AIP_MODEL_DIR``)."""
    if "AIP_MODEL_DIR" in os.environ:
        folder = storage.at(os.environ["AIP_MODEL_DIR"])
        for path in artifacts.values():
            storage.copy(storage.at(path), folder / path.name)


def summary(candidate: Candidate) -> str:
    """One readable line."""
    accuracy, latency = candidate.validation_accuracy, candidate.latency_us
    return (
        f"{candidate.label}: {100 * accuracy.value:.2f} % of {accuracy.n:,} validation images, "
        f"{candidate.bytes / 1000:.1f} KB, {latency.value:.0f} µs an image"
    )
