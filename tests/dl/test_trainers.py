"""The three trainers as stages: one form, one chain of results, skipped when done, resumed when stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import compression
from mlapp import stage as stage_module
from mlapp.candidate import read_candidates
from mlapp.dataset import Dataset
from mlapp.dl import dnn_pruner, dnn_trainer, keras_model, knowledge_distiller
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Export
from mlapp.vetting.scorer import score

FAST: dict[str, Any] = {"epochs": 1, "batch_size": 50, "export": Export(representative_images=50, latency_runs=20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def teacher(data_uri: str, folder: Path) -> StageResult:
    config = dnn_trainer.DnnTrainerConfig(data=data_uri, width=0.25, **FAST)
    return dnn_trainer.run(config, folder / "teacher")


@pytest.fixture(scope="module")
def students(data_uri: str, folder: Path, teacher: StageResult) -> list[StageResult]:
    return [
        knowledge_distiller.run(
            knowledge_distiller.KnowledgeDistillerConfig(data=data_uri, teacher=teacher.uri, width=width, **FAST),
            folder / f"student-{width}",
        )
        for width in (0.125, 0.2)
    ]


@pytest.mark.parametrize("module", [dnn_trainer, knowledge_distiller, dnn_pruner])
def test_every_trainer_has_the_same_form(module: Any) -> None:
    for name in ("fit", "evaluate", "save", "load", "run"):
        assert callable(getattr(module, name))
    assert issubclass(
        module.run.config, tuple(base for base in module.run.config.__mro__ if "Optimization" in str(base))
    )


def test_a_trainer_leaves_its_model_candidates_history_and_curves(teacher: StageResult) -> None:
    assert set(teacher.artifacts) == {
        "network",
        "keras",
        "float32",
        "int8",
        "candidates",
        "history",
        "curves",
        "answers",
    }
    assert teacher.damage() is None
    metric = teacher.metrics["int8.validation_accuracy"]
    assert metric.n
    assert metric.low < metric.value < metric.high
    assert teacher.headline.startswith(f"teacher: {100 * teacher.metrics['float32.validation_accuracy'].value:.2f} %")
    assert teacher.environment["tf-keras"].startswith("2.")


def test_other_code_and_force_train_from_the_beginning(
    data_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a work directory with the checkpoints of a training that ended, then its network is not taken for new."""
    config = dnn_trainer.DnnTrainerConfig(data=data_uri, width=0.125, **FAST)
    with caplog.at_level("INFO", "mlapp"):
        dnn_trainer.run(config, tmp_path)
        monkeypatch.setattr(stage_module, "code_version", lambda _: "other")
        dnn_trainer.run(config, tmp_path)
        dnn_trainer.run(config, tmp_path, force=True)
    assert caplog.text.count("epoch 1/1") == 3
    assert "resuming" not in caplog.text


def test_a_second_run_takes_up_the_result(data_uri: str, folder: Path, teacher: StageResult) -> None:
    config = dnn_trainer.DnnTrainerConfig(data=data_uri, width=0.25, **FAST)
    assert dnn_trainer.run(config, folder / "teacher").finished == teacher.finished


@pytest.mark.parametrize("augmentation", ["light", "none"])
def test_a_teacher_of_both_sides_is_measured_as_such(
    data_uri: str, tmp_path: Path, teacher: StageResult, augmentation: str
) -> None:
    """Given images that were never mirrored in training, then their mirror images are not asked for."""
    settings = {"data": data_uri, "width": 0.25, "augmentation": augmentation, "both_sides": True, **FAST}
    result = dnn_trainer.run(dnn_trainer.DnnTrainerConfig(**settings), tmp_path)
    float32, int8 = read_candidates(result)
    mirrors = augmentation == "light"
    assert float32.macs == int8.macs == (2 if mirrors else 1) * read_candidates(teacher)[0].macs
    assert ("mirror image" in float32.description) == mirrors
    model, images = keras_model.load(result.local("network")), Dataset.open(data_uri).split("test").images[:50]
    answers, reversed_ = (model.predict(np.ascontiguousarray(images[:, :, ::way]), verbose=0) for way in (1, -1))
    assert np.allclose(answers, reversed_, atol=1e-4) == mirrors
    for precision, atol in (("float32", 1e-4), ("int8", 0.1 * np.ptp(answers))):
        assert np.allclose(score(result.local(precision), images), answers, atol=atol)


def test_students_are_named_by_their_width(students: list[StageResult]) -> None:
    assert [read_candidates(result)[0].name for result in students] == ["student-0.125", "student-0.2"]


def test_a_student_is_narrowed_to_its_byte_budget(data_uri: str, folder: Path, teacher: StageResult) -> None:
    config = knowledge_distiller.KnowledgeDistillerConfig(
        data=data_uri, teacher=teacher.uri, width=1.0, architecture="poolnet", max_bytes=20_000, **FAST
    )
    int8 = read_candidates(knowledge_distiller.run(config, folder / "budget"))[1]
    assert int8.precision == "int8"
    assert 15_000 < int8.bytes <= 20_000
    assert int8.name.startswith("student-0.")


def test_other_students_and_sparsities_do_not_change_a_key(data_uri: str, teacher: StageResult) -> None:
    """Given one width more in the settings, then the students that stand are not trained again."""
    common = {"data": data_uri, "teacher": teacher.uri}
    for stage, one, others in (
        (knowledge_distiller.run, {"width": 0.2, "widths": (0.2,)}, {"width": 0.2, "widths": (0.2, 0.4)}),
        (
            dnn_pruner.run,
            {"students": (teacher.uri,), "sparsity": 0.3, "sparsities": (0.3,)},
            {"students": (teacher.uri,), "sparsity": 0.3, "sparsities": (0.3, 0.5)},
        ),
    ):
        keys = [stage.key(stage.resolved(stage.config(**common, **settings))) for settings in (one, others)]
        assert keys[0] == keys[1]


@pytest.mark.parametrize("method", ["filters", "weights"])
def test_the_pruner_tries_every_sparsity_and_keeps_the_sparsest_within_tolerance(
    data_uri: str, folder: Path, teacher: StageResult, students: list[StageResult], method: str
) -> None:
    config = dnn_pruner.DnnPrunerConfig(
        data=data_uri,
        teacher=teacher.uri,
        students=tuple(result.uri for result in students),
        method=method,
        sparsities=(0.5, 0.3),
        tolerance=1.0,
        **FAST,
    )
    result = dnn_pruner.run(config, folder / method)
    best = max((read_candidates(student)[0] for student in students), key=lambda each: each.validation_accuracy.value)
    pruned = read_candidates(result)[0]
    assert pruned.name == f"{best.name} -50% {method}"
    if method == "filters":
        assert pruned.parameters < 0.4 * best.parameters
        assert pruned.bytes < best.bytes
    else:
        assert pruned.parameters == best.parameters
        assert pruned.nonzero_parameters < 0.65 * best.nonzero_parameters
        assert pruned.compressed_bytes < best.compressed_bytes
    assert keras_model.load_from(result.uri, Dataset.open(data_uri)).count_params() == pruned.parameters


def test_without_a_sparsity_within_tolerance_the_most_accurate_is_kept(
    data_uri: str, folder: Path, teacher: StageResult, students: list[StageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dnn_pruner, "_best", lambda uris: (uris[0], "student", 1.0))
    config = dnn_pruner.DnnPrunerConfig(
        data=data_uri,
        teacher=teacher.uri,
        students=(students[0].uri,),
        sparsities=(0.97, 0.1),
        tolerance=0.0,
        **FAST | {"epochs": 2, "learning_rate": 0.01},
    )
    result = dnn_pruner.run(config, folder / "strict")
    assert read_candidates(result)[0].name == "student -10% filters"


def test_a_teacher_that_is_no_model_is_told(data_uri: str, tmp_path: Path) -> None:
    config = knowledge_distiller.KnowledgeDistillerConfig(data=data_uri, teacher=data_uri, width=0.2, **FAST)
    with pytest.raises(UserError, match="has no artifact 'network'"):
        knowledge_distiller.run(config, tmp_path)


def test_sigterm_saves_a_checkpoint_and_the_next_start_takes_it_up(data_uri: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "mlapp.dl.dnn_trainer", "--preset", "smoke"),
        *("--data", data_uri, "--workdir", str(tmp_path), "training.epochs=3", "training.batch_size=20"),
        "training.augmentation=reference",
    ]
    environment = {**os.environ, "AIP_TENSORBOARD_LOG_DIR": str(tmp_path / "board")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    for line in process.stderr:
        if "epoch 1/3" in line:
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "checkpoint saved" in errors
    assert errors.strip().endswith("stopped; the same command takes the work up again")
    assert not (tmp_path / "result.json").exists()

    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "resuming after step" in again.stderr
    assert "epoch 1/3" not in again.stderr
    assert StageResult.load(str(tmp_path)).metrics["epochs"].value == 3
    assert list((tmp_path / "board").glob("events.out.*"))


def test_a_full_disk_ends_the_training_with_one_line(data_uri: str, full_disk: tuple[Path, tuple[str, ...]]) -> None:
    place, under = full_disk
    command = [
        *(*under, sys.executable, "-m", "mlapp.dl.dnn_trainer", "--preset", "smoke"),
        *("--data", data_uri, "--workdir", f"{place}/train", "training.batch_size=100"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()  # after the log of what went well
    assert "error: no space left for" in last
    assert "Traceback" not in done.stderr


def test_the_benchmark_of_compression_measures_every_way(
    data_uri: str, teacher: StageResult, students: list[StageResult], capsys: pytest.CaptureFixture[str]
) -> None:
    """A few clusters zip to less than many, those to less than free weights; each way's int8 answers as its float32."""
    compression.main(data_uri, students[0].uri, teacher.uri, epochs=1)

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    figures = {" ".join(row[:-5]): [float(cell.replace(",", "")) for cell in row[-5:]] for row in rows[1:]}
    ways = ["as exported", "fine-tuned alike", "quantisation-aware", "16 clusters", "32 clusters", "64 clusters"]
    assert sorted(figures) == sorted(ways)
    assert all(abs(int8 - float32) < 8 for float32, int8, *_ in figures.values())
    zipped = {way: figures[way][3] for way in figures}
    assert zipped["16 clusters"] < zipped["32 clusters"] < zipped["64 clusters"] < zipped["fine-tuned alike"]
