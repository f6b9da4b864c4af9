"""The recipe that we compare with, as tutorials write it: `cnn3`, `ImageDataGenerator`, `model.fit` and its callbacks.

    python bench/reference.py {throughput|train} FOLDER [EPOCHS]

Uses nothing of the project, so that nothing of it helps: TensorFlow and Keras run as they come. FOLDER holds the
splits as .npy files, as the transform stage writes them. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # ImageDataGenerator's own Keras
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

keras = tf.keras
BATCH_SIZE = 128
STEPS = 100


def main() -> None:
    """Print what one part found."""
    part, folder, *epochs = sys.argv[1:]
    found = throughput(Path(folder)) if part == "throughput" else train(Path(folder), int(epochs[0]))
    sys.stdout.write(json.dumps(found) + "\n")


def throughput(folder: Path) -> dict[str, Any]:
    """Seconds of a training step with images from the generator, and with the same few again and again."""
    model = cnn3()
    images, labels = split(folder, "train")
    fed = views().flow(images, labels, batch_size=BATCH_SIZE)
    same = tf.data.Dataset.from_tensors((images[:BATCH_SIZE].astype("float32"), labels[:BATCH_SIZE])).repeat()
    took: dict[str, list[float]] = {"fed": [], "alone": []}
    for _ in range(4):  # in turns, so that a busy moment of the machine hits both; the first warms up
        for name, batches in (("fed", fed), ("alone", same)):
            began = time.perf_counter()
            model.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0)
            took[name].append((time.perf_counter() - began) / STEPS)
    step, alone = min(took["fed"][1:]), min(took["alone"][1:])
    multiply_accumulates = 9 * (28**2 * 32 + 14**2 * 32 * 64 + 7**2 * 64 * 128) + 3 * 3 * 128 * 128 + 128 * 10
    gradients = 3 * multiply_accumulates - 9 * 28**2 * 32  # nobody asks for the images' own
    return {
        "images_per_second": BATCH_SIZE / step,
        "gflops": 2 * BATCH_SIZE * gradients / step / 1e9,
        "feed_share": 1 - alone / step,
        "parameters": model.count_params(),
    }


def train(folder: Path, epochs: int) -> dict[str, Any]:
    """Validation accuracy by epoch with the seconds it took, and the best epoch's hits among the test images."""
    model = cnn3()
    images, labels = split(folder, "train")
    ends: list[float] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        best = f"{scratch}/best.weights.h5"
        history = model.fit(
            views().flow(images, labels, batch_size=BATCH_SIZE),
            validation_data=split(folder, "validation"),
            epochs=epochs,
            verbose=2,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter() - began)),
                keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=3),
                keras.callbacks.EarlyStopping(monitor="val_loss", patience=10),
                keras.callbacks.ModelCheckpoint(
                    best, monitor="val_accuracy", save_best_only=True, save_weights_only=True
                ),
            ],
        )
        model.load_weights(best)
    images, labels = split(folder, "test")
    return {
        "validation_accuracy": history.history["val_accuracy"],
        "seconds": ends,
        "test_hits": int((model.predict(images, verbose=0).argmax(-1) == labels).sum()),
        "test_images": len(labels),
    }


def cnn3() -> Any:
    """Three convolutions 32-64-128 with max pooling and dropout, a hidden layer of 128."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=(28, 28, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def views() -> Any:
    """The tutorials' augmentation."""
    return keras.preprocessing.image.ImageDataGenerator(
        rotation_range=15,
        width_shift_range=0.15,
        height_shift_range=0.15,
        shear_range=0.15,
        zoom_range=0.15,
        horizontal_flip=True,
        fill_mode="nearest",
    )


def split(folder: Path, name: str) -> tuple[Any, Any]:
    """Images and labels, in memory."""
    return np.load(folder / f"{name}_images.npy"), np.load(folder / f"{name}_labels.npy")


if __name__ == "__main__":
    main()
