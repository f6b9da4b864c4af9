"""What `bench/frontier.py` measures, each part in a process of its own that prints one JSON object.

    python bench/parts.py PART [ARGUMENT=JSON …]

Parts: gemm, throughput, reference, ours, latency. Epochs are chosen on validation; the test images are scored once.
"""

from __future__ import annotations

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
from mlapp.dl.backend import keras, tf
from mlapp.dl.exporter import convert
from mlapp.dl.feed import training_batches
from mlapp.dl.losses import classification
from mlapp.dl.optimise import optimizer_of, step_function
from mlapp.schema import Training
from mlapp.vetting.scorer import latency_us, median_us, score

GEMM_SIDE, ROUNDS, WARM_UP = 2048, 12, 20
Figures = dict[str, Any]


def gemm() -> Figures:
    """The most GFLOP/s that multiplying two large float32 matrices reaches here, on all processors."""
    matrix = tf.random.normal((GEMM_SIDE, GEMM_SIDE))
    # Two at a time, as the two halves of a training batch are: what the pools of threads can do together.
    both = tf.function(lambda: [tf.reduce_sum(tf.linalg.matmul(matrix + each, matrix)) for each in range(2)])
    both()
    return {"gflops": 2 * 2 * GEMM_SIDE**3 / min(_seconds(both) for _ in range(ROUNDS)) / 1e9}


def throughput(data: str, preset: str, steps: int = 150) -> Figures:
    """Training steps of a preset's network: images a second, GFLOP/s, and what its images cost."""
    settings = config.load(preset).training
    dataset = Dataset.open(data)
    train = dataset.split("train")
    model = nets.build_for(dataset, settings.architecture, width=settings.width, seed=0)
    step = step_function(model, classification(model, settings.label_smoothing), optimizer_of(settings), settings)
    batches = iter(_batches(train, settings, steps + WARM_UP))
    for _ in range(WARM_UP):
        images, labels = next(batches)
        step(images, labels)
    began = time.perf_counter()
    for images, labels in batches:
        float(step(images, labels))
    fed = (time.perf_counter() - began) / steps
    alone = float(np.median([_seconds(lambda: float(step(images, labels))) for _ in range(steps)]))
    flops = 2 * settings.batch_size * nets.training_multiply_accumulates(model)
    return {
        "images_per_second": settings.batch_size / fed,
        "gflops": flops / fed / 1e9,
        "feed_share": max(0.0, 1 - alone / fed),
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
        test = dataset.split("test")
        hits = score(model_file, test.images).argmax(-1) == test.labels
    return _trained([epoch["validation_accuracy"] for epoch in history], seconds, hits)


def reference(data: str, epochs: int, seed: int = 0) -> Figures:
    """The tutorials' recipe as they write it: `cnn3`, `ImageDataGenerator`, `model.fit`, its callbacks."""
    settings = config.load("reference").training
    dataset = Dataset.open(data)
    model = nets.build_for(dataset, settings.architecture, width=1, seed=seed)
    model.compile(
        keras.optimizers.legacy.Adam(settings.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    clock = _Clock()
    train, validation = dataset.split("train"), dataset.split("validation")
    generator = keras.preprocessing.image.ImageDataGenerator(
        rotation_range=15, width_shift_range=0.15, height_shift_range=0.15, shear_range=0.15, zoom_range=0.15,
        horizontal_flip=True, fill_mode="nearest",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        best = f"{folder}/best.weights.h5"
        history = model.fit(
            generator.flow(np.asarray(train.images), np.asarray(train.labels), batch_size=settings.batch_size),
            validation_data=(np.asarray(validation.images), np.asarray(validation.labels)),
            epochs=epochs,
            verbose=2,
            callbacks=[
                clock.callback(),
                keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=3),
                keras.callbacks.EarlyStopping(monitor="val_loss", patience=10),
                keras.callbacks.ModelCheckpoint(
                    best, monitor="val_accuracy", save_best_only=True, save_weights_only=True
                ),
            ],
        )
        model.load_weights(best)
    test = dataset.split("test")
    hits = model.predict(np.asarray(test.images), verbose=0).argmax(-1) == test.labels
    return _trained(history.history["val_accuracy"], clock.seconds, hits)


def latency(data: str, model: str, runs: int = 2000) -> Figures:
    """One image on one thread: a Keras model's `predict_on_batch`, and its LiteRT files; and their test accuracy."""
    test = Dataset.open(data).split("test")
    folder = Path(model)
    network = keras.models.load_model(folder / "model.keras", compile=False)
    image = np.asarray(test.images[:1])
    found: Figures = {"keras_us": median_us(lambda: network.predict_on_batch(image), runs // 10).value}
    for precision in ("float32", "int8"):
        path = folder / f"model.{precision}.tflite"
        hits = score(path, test.images).argmax(-1) == test.labels
        found[precision] = {
            "us": latency_us(path, image, runs).value,
            "bytes": path.stat().st_size,
            "test_hits": int(hits.sum()),
            "test_images": len(hits),
        }
    return found


def _trained(accuracies: list[float], seconds: Any, hits: Any) -> Figures:
    return {
        "validation_accuracy": [round(float(each), 5) for each in accuracies],
        "seconds": [round(float(each), 2) for each in seconds],
        "test_hits": int(hits.sum()),
        "test_images": len(hits),
    }


def _batches(train: Any, settings: Training, steps: int) -> Any:
    return training_batches(
        train,
        batch_size=settings.batch_size,
        augmentation=settings.augmentation,
        seed=settings.seed,
        first_step=0,
        steps=steps,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class _Clock:
    """Seconds since training began, at the end of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def callback(self) -> Any:
        began = time.perf_counter()
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.seconds.append(time.perf_counter() - began)
        )


if __name__ == "__main__":
    part, *given = sys.argv[1:]
    arguments = {name: json.loads(value) for name, value in (each.split("=", 1) for each in given)}
    parts = {each.__name__: each for each in (gemm, throughput, ours, reference, latency)}
    sys.stdout.write(json.dumps(parts[part](**arguments)) + "\n")
