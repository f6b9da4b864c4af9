"""TensorFlow is imported when it is needed, quietly, with Keras 2."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from mlapp.dataset import Dataset
from mlapp.dl import nets, optimise
from mlapp.dl.backend import keras
from mlapp.dl.feed import training_batches
from mlapp.dl.losses import classification

TRAINERS = ["mlapp.dl.dnn_trainer", "mlapp.dl.knowledge_distiller", "mlapp.dl.dnn_pruner"]


@pytest.mark.parametrize("module", TRAINERS)
def test_importing_a_trainer_does_not_import_tensorflow(module: str) -> None:
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", TRAINERS)
def test_help_names_every_setting_with_its_bounds(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    for expected in ("--data URI", ".epochs=", "(≥ 1, ≤ 1000)", "export.representative_images=", "--schema"):
        assert expected in done.stdout


def test_first_use_sets_keras_2_and_writes_nothing_to_stderr() -> None:
    code = "from mlapp.dl.backend import keras, tf; assert tf.keras.Model is keras.Model; print(keras.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2.")
    assert done.stderr == ""


def test_training_steps_do_not_give_memory_back_and_fault_it_in_again(dataset: Dataset) -> None:
    model = nets.build("convnet", shape=dataset.shape, classes=10)
    optimizer = keras.optimizers.legacy.Adam(1e-3)
    step = optimise._step_function(model, classification(model, 0.0), optimizer, 0.0)
    batches = training_batches(
        dataset.split("train"), batch_size=128, augmentation="none", seed=0, first_step=0, steps=14
    )
    for number, batch in enumerate(batches):
        if number == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        float(step(*batch))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10 < 1000
