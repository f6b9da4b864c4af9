"""TensorFlow is imported when it is needed, quietly, with Keras 2."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
