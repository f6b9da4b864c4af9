"""Training on several devices: the result of one, whatever happens to the workers; all of it with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dl.crew import Crew

from mlapp.dl import dnn_trainer, keras_model, knowledge_distiller
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Devices, Export

# Other rounding is all that differs. Adam makes up to one learning rate a step of it where a gradient is nearly zero.
SETTINGS: dict[str, Any] = {
    "optimizer": "adam",
    "batch_size": 52,
    "learning_rate": 0.001,
    "label_smoothing": 0.0,
    "augmentation": "strong",
    "weight_decay": 0.01,
}
LOSS_TOLERANCE, VALIDATION_TOLERANCE, WEIGHT_TOLERANCE = 1e-3, 5e-3, 0.005
EXPORT = Export(representative_images=50, latency_runs=20)


def settings(section: str, **changes: Any) -> list[str]:
    return [
        *(f"{section}.{name}={value}" for name, value in (SETTINGS | changes).items()),
        *("export.representative_images=50", "export.latency_runs=20", "devices.lost_timeout=5"),
    ]


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    crews = []

    def made(*arguments: Any) -> Crew:
        crews.append(Crew(*arguments, tmp_path))
        return crews[-1]

    yield made
    for each in crews:
        each.end()


@pytest.fixture(scope="module")
def alone(data_uri: str, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """The teacher as one device trains it."""
    config = dnn_trainer.DnnTrainerConfig(data=data_uri, width=0.25, epochs=1, export=EXPORT, **SETTINGS)
    return dnn_trainer.run(config, tmp_path_factory.mktemp("alone"))


def assert_the_same_history(result: StageResult, expected: StageResult) -> None:
    ours, theirs = (json.loads(each.local("history").read_text()) for each in (result, expected))
    for our, their in zip(ours, theirs, strict=True):
        assert our["learning_rate"] == pytest.approx(their["learning_rate"])
        assert our["loss"] == pytest.approx(their["loss"], rel=LOSS_TOLERANCE)
        assert our["validation_loss"] == pytest.approx(their["validation_loss"], rel=VALIDATION_TOLERANCE)
        assert our["validation_accuracy"] == pytest.approx(their["validation_accuracy"], abs=0.05)  # 4 of 83 images


def assert_the_same_network(result: StageResult, expected: StageResult) -> None:
    ours, theirs = (keras_model.load(each.local("network")) for each in (result, expected))
    assert ours.to_json() == theirs.to_json()
    for our, their in zip(ours.weights, theirs.weights, strict=True):
        tolerance = WEIGHT_TOLERANCE if our.trainable else 0.03  # moving statistics add up what all layers before do
        np.testing.assert_allclose(our.numpy(), their.numpy(), atol=tolerance, err_msg=our.name)


@pytest.mark.timeout(400)
def test_two_workers_train_what_one_does_and_the_chief_alone_writes(
    crew: Callable[..., Crew], data_uri: str, alone: StageResult, tmp_path: Path
) -> None:
    arguments = ["--data", data_uri, "--workdir", f"{tmp_path}/pair", *settings("training", epochs=1, width=0.25)]
    pair = crew("mlapp.dl.dnn_trainer", arguments)
    pair.start()
    assert pair.codes() == [0, 0], pair.said("chief") + pair.said("worker")
    for role in pair.ROLES:
        assert "2 devices on 2 workers: 52 images a step, 26 on each, learning rate 0.001" in pair.said(role)
    assert "train: done, the chief writes the result" in pair.said("worker")
    assert "result:" not in pair.said("worker")
    assert_the_same_history(StageResult.load(f"{tmp_path}/pair"), alone)
    assert_the_same_network(StageResult.load(f"{tmp_path}/pair"), alone)


@pytest.mark.timeout(600)
def test_workers_that_are_stopped_or_lost_take_the_work_up_again_and_end_as_one_would(
    crew: Callable[..., Crew], data_uri: str, alone: StageResult, tmp_path: Path
) -> None:
    """Given a SIGTERM to all, then the worker and then the chief killed, when started again, then nothing differs."""
    config = knowledge_distiller.KnowledgeDistillerConfig(
        data=data_uri, teacher=alone.uri, width=0.2, epochs=4, export=EXPORT, **SETTINGS
    )
    expected = knowledge_distiller.run(config, tmp_path / "alone")
    pair = crew(
        "mlapp.dl.knowledge_distiller",
        [
            *("--data", data_uri, "--teacher", alone.uri, "--width", "0.2", "--workdir", f"{tmp_path}/pair"),
            *settings("distillation", epochs=4),
        ],
    )

    pair.start()
    pair.wait_for("epoch 1/4")
    pair.signal(signal.SIGTERM, "chief")
    time.sleep(0.2)
    pair.signal(signal.SIGTERM, "worker")
    assert pair.codes() == [143, 143], pair.said("chief") + pair.said("worker")
    assert "checkpoint saved" in pair.said("chief")
    [stopped] = {line.split("step ")[1].split(",")[0] for role in pair.ROLES for line in stops(pair.said(role))}

    for lost, line, epoch in (("worker", "worker 0 was lost", 2), ("chief", "chief was lost", 3)):
        pair.start()
        pair.wait_for(f"epoch {epoch}/4")
        pair.signal(signal.SIGKILL, lost)
        killed = time.monotonic()
        [left] = [role for role in pair.ROLES if role != lost]
        codes = dict(zip(pair.ROLES, pair.codes(), strict=True))
        assert time.monotonic() - killed < 5 + 20
        assert codes == {lost: -signal.SIGKILL, left: os.EX_TEMPFAIL}, pair.said(left)
        assert f"{line}: start all workers again" in pair.said(left).splitlines()[-1]
        assert "Traceback" not in pair.said(left)
        assert not (tmp_path / "pair" / "result.json").exists()
        if lost == "worker":
            assert f"resuming after step {stopped}" in pair.said("chief")

    pair.start()
    assert pair.codes() == [0, 0], pair.said("chief") + pair.said("worker")
    assert "epoch 1/4" not in pair.said("worker")
    assert_the_same_history(StageResult.load(f"{tmp_path}/pair"), expected)


def stops(log: str) -> list[str]:
    return [line for line in log.splitlines() if "stopped at step" in line]


def test_a_worker_that_never_comes_up_ends_the_chief_with_its_name(
    crew: Callable[..., Crew], data_uri: str, tmp_path: Path
) -> None:
    arguments = ["--data", data_uri, "--workdir", f"{tmp_path}/work", "devices.start_timeout=2"]
    pair = crew("mlapp.dl.dnn_trainer", arguments)
    pair.start(roles=("chief",))
    assert pair.codes() == [os.EX_TEMPFAIL]
    assert "worker 0 (127.0.0.1:" in pair.said("chief").splitlines()[-1]
    assert "did not come up within 2 s" in pair.said("chief")


@pytest.mark.timeout(400)
def test_workers_that_would_train_different_things_are_refused(
    crew: Callable[..., Crew], data_uri: str, tmp_path: Path
) -> None:
    pair = crew("mlapp.dl.dnn_trainer", ["--data", data_uri, "--workdir", f"{tmp_path}/work"])
    pair.start(more={"worker": ["training.epochs=3"]})
    assert pair.codes() == [2, 2], pair.said("chief") + pair.said("worker")
    for role in pair.ROLES:
        assert "worker 0 would train something else than chief: start every worker with" in pair.said(role)
        assert "Traceback" not in pair.said(role)


@pytest.fixture(scope="module")
def mirrored(data_uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `dl.mirrored` found out in a process of its own: logical devices must be made before any other."""
    folder = tmp_path_factory.mktemp("mirrored")
    command = [sys.executable, "-m", "dl.mirrored", data_uri, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads((folder / "found.json").read_text()))


@pytest.mark.parametrize("training", ["train", "muon", "filters", "weights"])
def test_two_devices_of_one_process_train_what_one_does(mirrored: dict[str, Any], training: str) -> None:
    found = mirrored[training]
    assert found["same form"]
    assert found["taken up"], "what one device has begun, two do not take up"
    one, two = found["histories"]
    assert two["loss"] == pytest.approx(one["loss"], rel=LOSS_TOLERANCE)
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=VALIDATION_TOLERANCE)
    for name, (difference, swapped) in found["differences"].items():
        assert difference < (0.05 if "moving" in name and training == "weights" else WEIGHT_TOLERANCE), name
        # Among random weights, rounding decides which of two is the smaller one at the threshold.
        assert swapped <= (0.01 if training == "weights" else 0), name
    assert found["zeros"][0] == found["zeros"][1]
    assert (found["zeros"][0] > 1000) == (training == "weights")


def test_dropout_trains_on_two_devices(mirrored: dict[str, Any]) -> None:
    assert mirrored["dropout"][0]["loss"] < 2.4


def test_a_batch_that_does_not_divide_is_refused_with_those_nearest_that_do(mirrored: dict[str, Any]) -> None:
    assert mirrored["refused"] == "batch_size: 51 images do not divide among 2 devices: give 50 or 52"


def test_linear_scaling_multiplies_batch_and_rate_by_the_devices_before_the_key_is_taken(
    monkeypatch: pytest.MonkeyPatch, data_uri: str
) -> None:
    def resolved(**changes: Any) -> Any:
        config = dnn_trainer.DnnTrainerConfig(data=data_uri, batch_size=64, learning_rate=0.01, **changes)
        return dnn_trainer.run.resolved(config)

    two = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    keys = []
    for cluster, scaling, batch in (("", "none", 64), ("", "linear", 64), (two, "none", 64), (two, "linear", 128)):
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster) if cluster else "")
        config = resolved(scaling=scaling)
        assert (config.batch_size, config.learning_rate) == (batch, pytest.approx(0.01 * batch / 64))
        assert dnn_trainer.run.resolved(config) == config
        keys.append(dnn_trainer.run.key(config))
    assert keys[0] == keys[1] == keys[2] != keys[3]
    with pytest.raises(UserError, match=r"learning_rate.*less than or equal to 1.*linear scaling for 2 devices"):
        dnn_trainer.run.resolved(config.model_copy(update={"scaling": "linear", "learning_rate": 0.9}))


def test_how_long_to_wait_for_workers_is_no_part_of_a_key(data_uri: str) -> None:
    configs = [dnn_trainer.DnnTrainerConfig(data=data_uri, devices=Devices(start_timeout=time)) for time in (5, 50)]
    assert len({dnn_trainer.run.key(config) for config in configs}) == 1
