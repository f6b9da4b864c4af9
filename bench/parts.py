"""What `bench/frontier.py` measures, each part in a process of its own that prints one JSON object.

    python bench/parts.py PART [ARGUMENT=JSON …]

Parts: etl, gemm, throughput, ours, latency. Epochs are chosen on validation; the test images are scored once.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlapp import config
from mlapp.dataset import Dataset
from mlapp.dl import dnn_trainer, nets
from mlapp.dl.backend import tf
from mlapp.dl.exporter import convert
from mlapp.dl.feed import training_batches
from mlapp.dl.losses import classification
from mlapp.dl.training_step import optimizer_of, step_function
from mlapp.etl import gcp_dataloader, image_etl, quality
from mlapp.vetting.scorer import latency_us, median_us, score

GEMM_SIDE, ROUNDS, WARM_UP, STEPS = 2048, 12, 20, 15
Figures = dict[str, Any]


def gemm() -> Figures:
    """The most GFLOP/s that multiplying two large float32 matrices reaches here, on all processors."""
    matrix = tf.random.normal((GEMM_SIDE, GEMM_SIDE))
    # Two at a time, as the two halves of a training batch are: what the pools of threads can do together.
    both = tf.function(lambda: [tf.reduce_sum(tf.linalg.matmul(matrix + each, matrix)) for each in range(2)])
    both()
    return {"gflops": 2 * 2 * GEMM_SIDE**3 / min(_seconds(both) for _ in range(ROUNDS)) / 1e9}


def etl(raw: str) -> Figures:
    """Extract, validate and transform a data set, against decompressing and hashing its four files."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        source.mkdir()
        for path in Path(raw).glob("*ubyte"):
            (source / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))

        def stages() -> None:
            area = Path(tempfile.mkdtemp(dir=scratch))
            settings = config.load().data
            extracted = gcp_dataloader.run(
                gcp_dataloader.Extract(**{**settings.model_dump(), "source": str(source)}), area / "extract"
            )
            report = quality.run(quality.Validate(raw=extracted.uri), area / "validate")
            image_etl.run(image_etl.Transformation(raw=extracted.uri, report=report.uri), area / "transform")

        def least() -> None:
            for path in sorted(source.iterdir()):
                hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()

        took = np.array([[_seconds(stages), _seconds(least)] for _ in range(5)])
    return {"etl_s": took[:, 0].tolist(), "decompress_and_hash_s": took[:, 1].tolist()}


def throughput(data: str, preset: str) -> Figures:
    """Training steps of a preset's network: images a second, GFLOP/s, and what its images cost."""
    settings = config.load(preset).training
    dataset = Dataset.open(data)
    model = nets.build_for(dataset, settings, width=settings.width, seed=0)
    step = step_function(model, classification(model, settings.label_smoothing), optimizer_of(settings), settings)
    batches = iter(
        training_batches(
            dataset.split("train"),
            batch_size=settings.batch_size,
            augmentation=settings.augmentation,
            seed=settings.seed,
            first_step=0,
            steps=WARM_UP + ROUNDS * STEPS,
        )
    )
    for _ in range(WARM_UP):
        images, labels = next(batches)
        step(images, labels)

    def fed() -> None:
        for _ in range(STEPS):
            float(step(*next(batches)))

    def alone() -> None:
        for _ in range(STEPS):
            float(step(images, labels))

    # In turns, so that a busy moment of the machine hits both.
    took = np.array([[_seconds(fed), _seconds(alone)] for _ in range(ROUNDS)]) / STEPS
    best = took.min(0)
    return {
        "images_per_second": settings.batch_size / best[0],
        "gflops": 2 * settings.batch_size * nets.training_multiply_accumulates(model) / best[0] / 1e9,
        "feed_share": 1 - best[1] / best[0],
        "parameters": model.count_params(),
    }


def ours(data: str, preset: str, seed: int = 0) -> Figures:
    """Train a preset's network: accuracy by epoch with its time, then the test images once."""
    settings = config.load(preset, {"training.seed": seed}).training
    dataset = Dataset.open(data)
    with tempfile.TemporaryDirectory() as folder:
        model, history = dnn_trainer.fit(settings, dataset, Path(folder))
        seconds = np.cumsum([epoch["seconds"] for epoch in history])
        model_file = Path(folder, "model.tflite")
        model_file.write_bytes(convert(model))
        model_size = model_file.stat().st_size
        test = dataset.split("test")
        hits = score(model_file, test.images).argmax(-1) == test.labels
    return {
        "validation_accuracy": [epoch["validation_accuracy"] for epoch in history],
        "seconds": seconds.tolist(),
        "test_hits": int(hits.sum()),
        "test_images": len(hits),
        "bytes": model_size,
    }


def latency(data: str, preset: str, runs: int = 2000) -> Figures:
    """One image on one thread: `predict_on_batch` of a preset's teacher, and LiteRT of its students.

    Their weights are random, on which no time depends.
    """
    settings = config.load(preset)
    dataset = Dataset.open(data)
    image = np.asarray(dataset.split("test").images[:1])
    teacher = nets.build_for(dataset, settings.training, width=settings.training.width, seed=0)
    found: Figures = {"keras_us": median_us(lambda: teacher.predict_on_batch(image), runs // 10).value, "students": []}
    for width in settings.distillation.widths:
        student = nets.build_for(dataset, settings.distillation, width=width, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            path.write_bytes(convert(student, dataset.split("train"), images=100))
            found["students"].append(
                {"width": width, "bytes": path.stat().st_size, "us": latency_us(path, image, runs).value}
            )
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    part, *given = sys.argv[1:]
    arguments = {name: json.loads(value) for name, value in (each.split("=", 1) for each in given)}
    parts = {each.__name__: each for each in (etl, gemm, throughput, ours, latency)}
    sys.stdout.write(json.dumps(parts[part](**arguments)) + "\n")
