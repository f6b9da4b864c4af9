"""What a search depends on, and what is refused before Ray is started."""

from __future__ import annotations

import json
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter

from mlapp import config as configuration
from mlapp.config import load
from mlapp.dl import dnn_trainer, knowledge_distiller
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Distillation, Training, Tuning
from mlapp.search_space import Choice, Dimension, Real, SearchSpace, Whole
from mlapp.tune import tuner
from mlapp.tune.plan import MB, Node, Plan, plan
from mlapp.tune.space import checked, distributions, every, nearest
from mlapp.tune.trials import Trials
from mlapp.tuned import with_tuned

Make = Callable[..., tuner.TunerConfig]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a search is a failure."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was to be started")

    monkeypatch.setattr(tuner, "search", refuse)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trials": 0}, "train: no search (tuning.trials is 0), its settings stay as they are"),
        (
            {"trainers": ("distill",)},
            "train: no search (tuning.trainers does not name train), its settings stay as they are",
        ),
    ],
)
def test_no_search_returns_at_once_and_changes_nothing(
    config: Make, no_ray: None, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    result = tuner.run(config(**settings), tmp_path / "work")
    assert result.headline == told
    assert json.loads(result.local("best").read_text())["parameters"] == {}
    trainer = dnn_trainer.DnnTrainerConfig(data="-", tuned=result.uri)
    assert with_tuned(trainer) == trainer.model_copy(update={"tuned": None})


def test_no_search_imports_neither_ray_nor_tensorflow(planted_data: StageResult, tmp_path: Path) -> None:
    script = (
        "import sys; from mlapp.tune import tuner; "
        f"tuner.run.main(['--trainer', 'train', '--data', {planted_data.uri!r}, '--workdir', {str(tmp_path / 'w')!r}]);"
        "sys.exit(bool({'ray', 'optuna', 'tensorflow', 'pandas'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_key_depends_on_the_asked_trainers_settings_and_code_only(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(**settings: Any) -> str:
        return tuner.run.key(tuner.run.resolved(config(**settings)))

    assert key() == key(distillation=Distillation(epochs=2), trainers=("distill", "train"))
    assert len({key(), key(training={"learning_rate": 0.5}), key(trials=7), key(seed=1)}) == 4
    assert key(trials=0) == key(trials=0, training={"learning_rate": 0.5}, seed=3)
    before = key()
    monkeypatch.setattr(tuner, "code_version", lambda module: f"another {module}")
    assert key() != before
    resolved = tuner.run.resolved(config())
    assert tuner.run.resolved(resolved) == resolved


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (
            {"learning_rat": Real(low=0.1, high=0.2)},
            "tuning.space: learning_rat is nothing to search for train: did you mean learning_rate?",
        ),
        ({"temperature": Real(low=1, high=9)}, "tuning.space: temperature is nothing to search for train: known are"),
        ({"data": Choice(of=("a", "b"))}, "tuning.space: data is nothing to search for train"),
        ({"epochs": Whole(low=1, high=9)}, "tuning.space: epochs is nothing to search for train"),
        (
            {"learning_rate": Real(low=0.1, high=7.0)},
            "learning_rate: input should be less than or equal to 1, not 7.0 (from tuning.space)",
        ),
        (
            {"batch_size": Real(low=16, high=32)},
            "batch_size: input should be a valid integer, got a number with a fractional part",
        ),
        ({"augmentation": Choice(of=("none", "heavy"))}, "augmentation: input should be 'none', 'light', 'strong'"),
    ],
)
def test_a_space_that_the_trainer_does_not_take_is_one_clear_line(
    config: Make, no_ray: None, tmp_path: Path, space: dict[str, Dimension], told: str
) -> None:
    with pytest.raises(UserError) as raised:
        tuner.run(config(space=space), tmp_path / "work")
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{learning_rate: {kind: real, low: 2, high: 1}}", "low (2) must be below high (1)"),
        ("{learning_rate: {kind: real, low: 0, high: 1, log: true}}", "low must be above 0 for log, not 0"),
        ("{learning_rate: {low: 0, high: 1}}", "tuning.space.learning_rate"),
        ("{learning_rate: {kind: choice, of: [1]}}", "should have at least 2 items"),
        ("{learning_rate: {kind: real, low: 0, high: 1, lag: true}}", "tuning.space.learning_rate.real.lag"),
        ("[learning_rate]", "tuning.space: input should be a valid dictionary"),
        (f"{{learning_rate: {{kind: whole, low: 1, high: {10**400}}}}}", "less than or equal to 9007199254740992"),
        (f"{{learning_rate: {{kind: whole, low: -{10**30}, high: 5}}}}", "greater than or equal to -9007199254740992"),
        ("{learning_rate: {kind: real, low: -1.0e308, high: 1.0e308}}", "or equal to 1000000000000000, not '1.0e308'"),
        ("{learning_rate: {kind: real, low: .nan, high: .inf}}", "tuning.space.learning_rate.real.low: input"),
        ("{learning_rate: {kind: choice, of: [.nan, .inf]}}", "tuning.space.learning_rate.choice.of.0"),
        (f"{{learning_rate: {{kind: choice, of: {list(range(20_000))}}}}}", "should have at most 1000 items"),
        (f"{{learning_rate: {{kind: choice, of: [a, {'b' * 9_000}]}}}}", "(9,002 characters)"),
        (f"{{learning_rate: {{kind: {'k' * 9_000}}}}}", "characters)"),
        ("{learning_rate: {kind: [real], low: 0, high: 1}}", "tuning.space.learning_rate"),
        ("{learning_rate: {kind: real, low: 10^30, high: 1}}", "unable to parse string as a number, not '10^30'"),
        (str({f"no{n}": 1 for n in range(5_000)}), "and 4,990 more"),
    ],
)
def test_a_space_that_is_none_is_told_by_the_configuration(given: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        load("smoke", configuration.parse_overrides([f"tuning.space={given}"]), environ={})
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 5_000


@pytest.mark.parametrize("seed", range(3))
def test_no_space_however_odd_ends_in_a_traceback(config: Make, no_ray: None, tmp_path: Path, seed: int) -> None:
    """A space is taken as the samplers can take it, or refused in one line."""
    odd = [0, 1, -1, 10**30, 10**400, 1e308, -1e308, 5e-324, math.inf, math.nan, 0.5, True, None, "", "nan", [], {}, 64]
    random = Random(seed)
    for _ in range(150):
        name = random.choice(sorted(Training.model_fields))
        ends = {"low": random.choice(odd), "high": random.choice(odd), "log": random.choice([True, False, *odd])}
        dimension = random.choice(
            [{"kind": "real", **ends}, {"kind": "whole", **ends}, {"kind": "choice", "of": random.choices(odd, k=3)}]
        )
        assert all("\n" not in line and len(line) < 5_000 for line in refused({name: dimension}))


def refused(space: dict[str, Any]) -> list[str]:
    """Why a space is refused; nothing where the sampler takes it."""
    try:
        given = load("smoke", {"tuning": {"space": space}}, environ={}).tuning.space
        taken = checked(given, dnn_trainer.DnnTrainerConfig(data="-"), set(Training.model_fields), "train")
    except UserError as error:
        return [str(error)]
    nearest(taken, Training())
    every(taken, 1000)
    optuna.create_study().ask(distributions(taken))
    return []


def test_a_space_of_ones_own_is_taken_from_every_layer() -> None:
    override = configuration.parse_overrides(["tuning.space.learning_rate={kind: real, low: 0.001, high: 0.1}"])
    environ = {"MLAPP_TUNING__SPACE": '{"batch_size": {"kind": "choice", "of": [32, 64]}}'}
    assert load("smoke", override, environ).tuning.space == {
        "learning_rate": Real(low=0.001, high=0.1),
        "batch_size": Choice(of=(32, 64)),
    }


def test_distill_needs_its_teacher_and_takes_the_widest_student(config: Make, planted_data: StageResult) -> None:
    wanted = config(trainer="distill", trainers=("distill",), distillation=Distillation(widths=(0.25, 0.5)), epochs=3)
    with pytest.raises(UserError, match=r"^--teacher is missing: give the result of dnn_trainer that distill learns"):
        tuner.run.resolved(wanted)
    wanted = wanted.model_copy(update={"teacher": planted_data.uri})
    settings = tuner._settings(knowledge_distiller, wanted)
    assert isinstance(settings, knowledge_distiller.KnowledgeDistillerConfig)
    assert (settings.width, settings.epochs) == (0.5, 3)


def test_the_first_point_is_the_settings_moved_into_the_bounds() -> None:
    space = {
        "learning_rate": Real(low=0.02, high=0.1, log=True),
        "batch_size": Choice(of=(64, 128)),
        "warmup": Real(low=0, high=1),
        "augmentation": Choice(of=("none", "strong")),
    }
    settings = Training(learning_rate=0.01, batch_size=100, warmup=0.2, augmentation="strong")
    assert nearest(space, settings) == {
        "learning_rate": 0.02,
        "batch_size": 128,
        "warmup": 0.2,
        "augmentation": "strong",
    }


def test_every_dimension_is_read_back_from_json() -> None:
    for dimension in (Real(low=0, high=1), Whole(low=1, high=2, log=True), Choice(of=(True, "a", 2, 0.5))):
        assert TypeAdapter(Dimension).validate_json(dimension.model_dump_json()) == dimension


@pytest.mark.parametrize(
    ("settings", "nodes", "planned", "told"),
    [
        ({}, [Node(2, 23_000 * MB)], (2, 1), None),
        ({}, [Node(2, 2_000 * MB)], (1, 1), None),
        ({}, [Node(2, 500 * MB)], (1, 1), "500 MB of memory are free and a trial may need 1500: one at a time"),
        ({"cpus_per_trial": 4}, [Node(2, 23_000 * MB)], (1, 2), "a trial gets 2 processors, not 4"),
        ({"concurrency": 4}, [Node(2, 23_000 * MB)], (2, 1), "2 trials at once, not 4"),
        ({"concurrency": 1}, [Node(64, 230_000 * MB)], (1, 1), None),
        ({"trials": 3}, [Node(64, 230_000 * MB)], (3, 1), None),
        ({"cpus_per_trial": 2}, [Node(3, 23_000 * MB), Node(5, 23_000 * MB)], (3, 2), None),
    ],
)
def test_trials_are_fitted_into_the_machines(
    settings: dict[str, Any],
    nodes: list[Node],
    planned: tuple[int, int],
    told: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = plan(Tuning(**{"trials": 20, **settings}), nodes, own=True)
    assert (made.concurrency, made.cpus) == planned
    assert [record.message.startswith(told or "") for record in caplog.records] == ([True] if told else [])


def test_gpus_are_shared_by_the_trials_at_work() -> None:
    def share(gpus: float, concurrency: int) -> float:
        return plan(Tuning(trials=20), [Node(concurrency, 2000 * concurrency * MB, gpus)], own=True).gpus

    assert [share(0, 2), share(1, 2), share(2, 3), share(8, 2)] == [0, 0.5, 0.5, 1]
    assert "GPU" not in Plan(1, 1, 1).resources


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []
        threading.Thread(target=lambda: taken.append(server.accept()[0]), daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1 (Connection refused)"),
        ("127.0.0.1:{mute}", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:{mute} (no answer of a Ray)"),
        ("no.such.host.invalid:6379", "no Ray cluster answers at RAY_ADDRESS=no.such.host.invalid:6379 ("),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS=ray://127.0.0.1:10001 is no address: give the head node's host:port"),
        ("127.0.0.1", "RAY_ADDRESS=127.0.0.1 is no address"),
        ("auto", "RAY_ADDRESS=auto is no address"),
    ],
)
def test_a_ray_address_that_does_not_answer_is_one_line_within_seconds(
    config: Make, mute: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, told: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address.format(mute=mute))
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        tuner.run(config(), tmp_path / "work")
    assert str(raised.value).startswith(told.format(mute=mute))
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 30


def test_what_is_known_of_trials_is_kept_for_the_same_search_only(
    config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    space: SearchSpace = {"learning_rate": Real(low=0.1, high=0.2)}
    trials = Trials(tmp_path, config(), space)
    first = trials.begun({"learning_rate": 0.1})
    trials.begun({"learning_rate": 0.2})
    trials.put(first.model_copy(update={"state": "finished", "accuracies": {1: 0.5}}))
    again = Trials(tmp_path, config(), space)
    assert [trial.number for trial in again.over] == [1]
    assert [trial.number for trial in again.interrupted] == [2]
    assert again.begun({"learning_rate": 0.2}).number == 2
    assert again.begun({"learning_rate": 0.2}).number == 3
    assert list(Trials(tmp_path, config(seed=1), space)) == []
    (again.folder / "trial-0001.json").write_text('{"number": 1, "form": "of another version"}')
    assert Trials(tmp_path, config(), space).over == []
    again.forget()
    assert not list(tmp_path.iterdir())
