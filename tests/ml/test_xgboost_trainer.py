"""The baseline as a trainer and as a stage: the common form, early stopping, resume, and bad input told in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest

from mlapp import tracking
from mlapp.candidate import read_candidates
from mlapp.dataset import Dataset, Split
from mlapp.errors import Terminated, UserError
from mlapp.ml import boosting, xgboost_model, xgboost_trainer
from mlapp.ml.ml_utils import Features
from mlapp.ml.xgboost_trainer import SEARCH_SPACE, XgboostTrainerConfig, evaluate, fit, load, save
from mlapp.result import StageResult
from mlapp.schema import Baseline

# Sampled images and features: nothing of the resume may hang on there being no chance in it.
FAST: dict[str, Any] = {"rounds": 25, "max_depth": 3, "subsample": 0.7, "column_sample": 0.2}


@pytest.fixture(scope="module")
def result(data_uri: str, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return xgboost_trainer.run(XgboostTrainerConfig(data=data_uri, **FAST), tmp_path_factory.mktemp("baseline"))


def test_it_has_the_form_of_every_trainer() -> None:
    for name in ("fit", "evaluate", "save", "load", "run"):
        assert callable(getattr(xgboost_trainer, name))
    assert (xgboost_trainer.run.name, xgboost_trainer.run.section) == ("baseline", "baseline")
    assert xgboost_trainer.run.inputs == ["data", "tuned"]
    assert set(SEARCH_SPACE) <= set(Baseline.model_fields)


@pytest.mark.parametrize("name", sorted(SEARCH_SPACE))
def test_the_search_space_lies_within_the_settings_bounds(name: str) -> None:
    dimension = SEARCH_SPACE[name]
    for value in (dimension.low, dimension.high):
        assert getattr(Baseline(**{name: value}), name) == value


def test_it_learns_real_images_and_tells_of_itself_as_a_candidate(result: StageResult) -> None:
    [candidate] = read_candidates(result)
    assert candidate.validation_accuracy.n == 83
    assert candidate.validation_accuracy.value > 0.8
    assert (candidate.kind, candidate.precision, candidate.macs) == ("baseline", "float32", None)
    assert candidate.bytes == result.artifacts["model"].bytes
    assert candidate.compressed_bytes < candidate.bytes / 2
    assert candidate.latency_us.n == 200
    assert candidate.latency_us.low <= candidate.latency_us.value <= candidate.latency_us.high
    trees = json.loads(result.local("model").read_text())["learner"]["gradient_booster"]["model"]["trees"]
    assert candidate.parameters == sum(int(tree["tree_param"]["num_nodes"]) for tree in trees)


def test_it_leaves_history_curves_and_a_picture_of_where_the_trees_look(result: StageResult) -> None:
    assert set(result.artifacts) == {"model", "candidates", "history", "curves", "importance"}
    assert result.damage() is None
    history = json.loads(result.local("history").read_text())
    assert [record["round"] for record in history] == [5, 10, 15, 20, 25]
    assert history[-1]["loss"] < history[0]["loss"]
    for name in ("curves", "importance"):
        assert result.local(name).read_bytes().startswith(b"\x89PNG")
    assert result.metrics["training_cpu"].value > 0
    assert result.headline.startswith(f"xgboost: {100 * result.metrics['float32.validation_accuracy'].value:.2f} %")


def test_the_model_kept_is_that_of_the_most_accurate_round(result: StageResult, dataset: Dataset) -> None:
    history = json.loads(result.local("history").read_text())
    most = max(history, key=lambda record: record["validation_accuracy"])
    model = load(result.local("model"))
    assert model.num_boosted_rounds() == most["round"] == result.metrics["best_round"].value
    assert evaluate(model, dataset.split("validation")).value == pytest.approx(most["validation_accuracy"])


def test_a_saved_model_answers_as_before_in_batches_and_one_by_one(
    dataset: Dataset, result: StageResult, tmp_path: Path
) -> None:
    model, _ = fit(Baseline(**FAST), dataset, tmp_path)
    save(model, tmp_path / "model.json")
    assert (tmp_path / "model.json").read_bytes() == result.local("model").read_bytes()
    images = dataset.split("validation").images
    answers = xgboost_model.margins(model, images)
    assert answers.shape == (83, 10)
    assert np.array_equal(xgboost_model.score(tmp_path / "model.json", images), answers)
    alone = [xgboost_model.margins(model, image[np.newaxis]) for image in images[:20]]
    assert np.array_equal(np.concatenate(alone), answers[:20])


def test_another_seed_grows_other_trees(dataset: Dataset, result: StageResult, tmp_path: Path) -> None:
    model, _ = fit(Baseline(**FAST, seed=1), dataset, tmp_path)
    assert model.save_raw("json") != load(result.local("model")).save_raw("json")


class Listener(tracking.Tracker):
    """Keeps what it is told, and can have a SIGTERM arrive at a round."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.told: list[tuple[int, float]] = []
        self.stop_at = stop_at

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self.told.append((number, figures["validation_accuracy"]))
        if number == self.stop_at:
            raise Terminated


def test_every_few_rounds_are_told_with_their_accuracy(dataset: Dataset, tmp_path: Path) -> None:
    with tracking.tracked_by(listener := Listener()):
        _, history = fit(Baseline(**FAST), dataset, tmp_path)
    assert listener.told == [(record["round"], record["validation_accuracy"]) for record in history]


def test_training_stops_without_progress_and_keeps_an_earlier_round(dataset: Dataset, tmp_path: Path) -> None:
    config = Baseline(rounds=300, patience=10, learning_rate=1.0, max_depth=6, l2=0.1, column_sample=0.2)
    model, history = fit(config, dataset, tmp_path)
    lowest = min(history, key=lambda record: record["validation_loss"])
    assert history[-1]["round"] == lowest["round"] + 10 < 300
    assert model.num_boosted_rounds() == boosting.best(history)["round"]


@pytest.mark.parametrize("stop_at", [5, 10, 15, 25])
def test_a_stopped_run_ends_with_the_very_same_trees(
    dataset: Dataset, result: StageResult, tmp_path: Path, stop_at: int
) -> None:
    """Given a SIGTERM before, at or after a checkpoint, or after all rounds, then nothing is different."""
    with tracking.tracked_by(Listener(stop_at)), pytest.raises(Terminated):
        fit(Baseline(**FAST), dataset, tmp_path)
    with tracking.tracked_by(listener := Listener()):
        model, history = fit(Baseline(**FAST), dataset, tmp_path)
    assert bytes(model.save_raw("json")) == result.local("model").read_bytes()
    assert listener.told[0][0] == 1 + (stop_at - 1) // 10 * 10 + 4
    assert [record["round"] for record in history] == [5, 10, 15, 20, 25]


def test_the_steps_between_checkpoints_grow_and_a_late_stop_changes_nothing_either(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Given the checkpoint of round 60, then the next is that of round 75, after a fifth more, and not of 70."""
    config = Baseline(rounds=80, max_depth=2, subsample=0.7, column_sample=0.05, patience=80)
    undisturbed, _ = fit(config, dataset, tmp_path / "undisturbed")
    for stop_at, first in ((70, 5), (80, 65)):
        with tracking.tracked_by(listener := Listener(stop_at)), pytest.raises(Terminated):
            fit(config, dataset, tmp_path / "stopped")
        assert listener.told[0][0] == first
    with tracking.tracked_by(listener := Listener()):
        resumed, _ = fit(config, dataset, tmp_path / "stopped")
    assert listener.told[0][0] == 80
    assert resumed.save_raw("json") == undisturbed.save_raw("json")


def test_sigterm_and_sigkill_lose_at_most_the_rounds_since_the_last_checkpoint(
    data_uri: str, result: StageResult, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "mlapp.ml.xgboost_trainer", "--data", data_uri, "--workdir", str(tmp_path)),
        *(f"baseline.{name}={value}" for name, value in FAST.items()),
    ]
    for ending, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr
        for line in process.stderr:
            if "round 15/25" in line:
                process.send_signal(ending)
                break
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        assert not (tmp_path / "result.json").exists()
    assert "stopped in round" in errors
    assert errors.strip().endswith("stopped; the same command takes the work up again")

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"resuming after round [12]0", again.stderr)
    assert StageResult.load(str(tmp_path)).local("model").read_bytes() == result.local("model").read_bytes()


def test_other_settings_or_data_never_resume_from_each_other(dataset: Dataset, tmp_path: Path) -> None:
    fit(Baseline(**FAST), dataset, tmp_path)
    fit(Baseline(**FAST | {"l2": 2.0}), dataset, tmp_path)
    other = dataset.result.model_copy(update={"key": "other"})
    fit(Baseline(**FAST), Dataset(dataset.name, dataset.classes, dataset.shape, {}, other), tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    assert [len(list(folder.iterdir())) for folder in (tmp_path / "checkpoints").iterdir()] == [1, 1, 1]


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty"])
def test_a_damaged_checkpoint_is_told_and_left_out(
    dataset: Dataset, result: StageResult, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    with tracking.tracked_by(Listener(20)), pytest.raises(Terminated):
        fit(Baseline(**FAST), dataset, tmp_path)
    [checkpoint] = (tmp_path / "checkpoints").rglob("*.json")
    content = checkpoint.read_bytes()
    flipped = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    checkpoint.write_bytes({"cut off": content[:5000], "one bit": flipped, "empty": b""}[damage])
    model, _ = fit(Baseline(**FAST), dataset, tmp_path)
    assert [record.message for record in caplog.records if "is damaged" in record.message] == [
        f"checkpoint {checkpoint} is damaged: not read, training starts from the beginning"
    ]
    assert bytes(model.save_raw("json")) == result.local("model").read_bytes()
    assert not checkpoint.exists() or checkpoint.read_bytes() == content


def test_what_a_search_found_replaces_the_settings(data_uri: str, dataset: Dataset, tmp_path: Path) -> None:
    best = tmp_path / "tune" / "best.json"
    best.parent.mkdir()
    best.write_text(json.dumps({"parameters": {"max_depth": 2, "learning_rate": 0.4}}))
    search = planted.result(best.parent, "tune", {"best": best})
    config = XgboostTrainerConfig(data=data_uri, tuned=search.uri, **FAST | {"rounds": 5})
    found = xgboost_trainer.run(config, tmp_path / "baseline")
    assert (found.config["max_depth"], found.config["learning_rate"]) == (2, 0.4)
    assert "depth 2" in read_candidates(found)[0].description


def test_the_test_images_are_never_opened(data_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, opened = Dataset.split, set()
    monkeypatch.setattr(Dataset, "split", lambda self, name: opened.add(name) or split(self, name))
    xgboost_trainer.run(XgboostTrainerConfig(data=data_uri, **FAST | {"rounds": 5}), tmp_path)
    assert opened == {"train", "validation"}


def test_a_learning_rate_near_nothing_is_no_divergence(dataset: Dataset, tmp_path: Path) -> None:
    _, history = fit(Baseline(**FAST | {"rounds": 5}, learning_rate=1e-9), dataset, tmp_path)
    assert history[0]["loss"] == pytest.approx(np.log(10), rel=1e-3)


def test_pixels_alone_can_be_learnt_from(dataset: Dataset, tmp_path: Path) -> None:
    model, history = fit(Baseline(**FAST | {"rounds": 10}, gradient_grids=(), pixel_grid=28), dataset, tmp_path)
    assert xgboost_model.features_of(model).count == 784
    assert boosting.best(history)["validation_accuracy"] > 0.6


class OneSplit(Dataset):
    """A data set whose training split is another."""

    given: Split

    def split(self, name: Any) -> Split:
        return self.given if name == "train" else super().split(name)


def with_training(dataset: Dataset, chosen: Any) -> Dataset:
    train = dataset.split("train")
    other = OneSplit(dataset.name, dataset.classes, dataset.shape, {}, dataset.result)
    object.__setattr__(other, "given", Split(train.images[chosen], train.labels[chosen]))
    return other


def test_a_class_without_images_is_named(dataset: Dataset, tmp_path: Path) -> None:
    without = with_training(dataset, dataset.split("train").labels != 3)
    with pytest.raises(UserError, match=r"^Dress: no image among the 826 to train on; add images of every class"):
        fit(Baseline(**FAST), without, tmp_path)


def test_a_single_image_is_told(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image among the 1 to train on") as told:
        fit(Baseline(**FAST), with_training(dataset, slice(0, 1)), tmp_path)
    assert "\n" not in str(told.value)


def test_settings_that_diverge_say_what_to_change(dataset: Dataset, tmp_path: Path) -> None:
    config = Baseline(rounds=100, learning_rate=1.0, min_child_weight=0, l2=0, max_depth=1, subsample=0.1, max_bin=4)
    with pytest.raises(UserError, match=r"training diverged; lower baseline\.learning_rate"):
        fit(config, dataset, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"learner": {}}', b"\x00" * 100, b"not a model"])
def test_a_file_that_is_no_model_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(UserError, match="is not a model of boosted trees"):
        load(tmp_path / "model.json")


def test_trees_that_name_no_features_are_refused(result: StageResult, tmp_path: Path) -> None:
    model = load(result.local("model"))
    model.set_attr(features=None)
    save(model, tmp_path / "model.json")
    with pytest.raises(UserError, match="is not a model of boosted trees"):
        load(tmp_path / "model.json")


def test_images_of_another_shape_are_told(result: StageResult) -> None:
    with pytest.raises(UserError, match="take images of shape 28×28×1, the data set has 8×8×1"):
        xgboost_model.score(result.local("model"), np.zeros((2, 8, 8, 1), np.uint8))


def test_help_imports_no_xgboost() -> None:
    script = "import sys, mlapp.ml.xgboost_trainer as t; sys.exit('xgboost' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_features_travel_with_the_model(result: StageResult) -> None:
    assert xgboost_model.features_of(load(result.local("model"))) == Features(
        shape=(28, 28, 1), pixel_grid=14, gradient_grids=(4, 7)
    )
