"""Trainings on two logical devices of one process, and on one: ``python -m dl.mirrored DATA FOLDER`` (in tests/)."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlapp.dataset import Dataset
from mlapp.dl import dnn_pruner, dnn_trainer, nets
from mlapp.dl.answers import answers_of
from mlapp.dl.backend import tf
from mlapp.dl.data_parallel import Devices
from mlapp.dl.devices import on
from mlapp.errors import UserError
from mlapp.schema import Pruning, Training

SETTINGS: dict[str, Any] = {
    "optimizer": "adam",
    "batch_size": 52,
    "learning_rate": 0.001,
    "augmentation": "strong",
    "epochs": 1,
}


def differences(left: Any, right: Any) -> list[float]:
    """The largest between weights that both kept, and what share of the weights only one of them kept."""
    swapped = (left == 0) != (right == 0)
    return [float(np.abs(left - right)[~swapped].max()), float(swapped.mean())]


def main(uri: str, folder: Path) -> None:
    """Write what came of each training to ``found.json``."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    dataset = Dataset.open(uri)
    two = Devices(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    student, teacher = (nets.build("convnet", shape=dataset.shape, classes=10, width=width) for width in (0.125, 0.25))
    taught = replace(dataset.split("train"), answers=answers_of(teacher, dataset.split("train"))[0])

    def train(place: str, **changes: Any) -> Any:
        config = Training(**{**SETTINGS, "width": 0.125, "weight_decay": 0.01, **changes})
        return dnn_trainer.fit(config, dataset, folder / place)

    def prune(place: str, method: str) -> Any:
        config = Pruning(**{**SETTINGS, "method": method})
        splits = taught, dataset.split("validation")
        return dnn_pruner.fit(config, student, *splits, folder / place / method, sparsity=0.5)

    trainings = {
        "train": train,
        "muon": lambda place: train(f"{place}-muon", optimizer="muon"),
        "filters": partial(prune, method="filters"),
        "weights": partial(prune, method="weights"),
    }
    found: dict[str, Any] = {}
    for name, training in trainings.items():
        model, [alone] = training("one")
        with on(two):
            other, [mirrored] = training("two")
            _, [taken_up] = training("one")
        pairs = list(zip(model.get_weights(), other.get_weights(), strict=True))
        found[name] = {
            "same form": model.to_json() == other.to_json(),
            "histories": [alone, mirrored],
            "taken up": taken_up == alone,
            "differences": {weight.name: differences(*pair) for weight, pair in zip(model.weights, pairs, strict=True)},
            "zeros": [sum(float((weight == 0).sum()) for weight in weights) for weights in zip(*pairs, strict=True)],
        }
    with on(two):
        found["dropout"] = train("dropout", architecture="cnn3", width=0.25)[1]
        try:
            train("refused", batch_size=51)
        except UserError as error:
            found["refused"] = str(error)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
