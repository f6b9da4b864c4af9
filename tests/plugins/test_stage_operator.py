"""The stage operator: what it hands to a stage, and what it makes of the stage's end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import stage_runner
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowException
from stage_operator import NO_SECOND_TRY, BadInput, StageOperator, command_line, flat


def operator(**kwargs: Any) -> tuple[StageOperator, list[str]]:
    lines: list[str] = []
    stage = StageOperator(task_id="stub", module="stub_stage", **kwargs)
    stage.tell = lines.append
    return stage, lines


def test_success_hands_on_the_uri_and_nothing_else():
    stage, _ = operator()
    assert stage.execute({}) == "memory://somewhere/result.json"


def test_a_stage_gets_its_arguments_the_runs_config_and_overrides():
    stage, lines = operator(arguments={"data": "d.json"}, config="c.json", overrides=["training.epochs=1"])
    stage.execute({})
    assert json.loads(lines[0])["arguments"] == ["training.epochs=1", "--data=d.json", "--config=c.json"]


def test_a_mapped_task_adds_its_item_under_its_flag():
    stage, lines = operator(arguments={"data": "d.json"}, over="width", item=0.25)
    stage.execute({})
    assert json.loads(lines[0])["arguments"] == ["--data=d.json", "--width=0.25"]


def test_bad_input_fails_with_the_stages_one_line_and_is_not_tried_again():
    stage, _ = operator(arguments={"do": "refuse"})
    with pytest.raises(BadInput, match=r"^stub_stage: error: labels out of range: give labels of 0 to 9$") as raised:
        stage.execute({})
    assert stage.retry_policy.evaluate(raised.value, try_number=1, max_tries=3).action == RetryAction.FAIL


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        ("crash", "the stage ended with exit code 1: ValueError: a bug"),
        ("vanish", "the stage was ended by SIGKILL: it said nothing"),
        ("silent", "stub_stage is no stage: it wrote no result URI to its --ended-to"),
    ],
)
def test_anything_else_is_an_error_that_airflow_may_try_again(scene, told):
    stage, _ = operator(arguments={"do": scene})
    with pytest.raises(AirflowException) as raised:
        stage.execute({})
    assert str(raised.value) == told
    assert NO_SECOND_TRY.evaluate(raised.value, try_number=1, max_tries=3).action == RetryAction.DEFAULT


def test_on_kill_ends_the_running_stage(tmp_path):
    saved = tmp_path / "saved"
    stage, _ = operator(arguments={"do": "checkpoint", "file": str(saved)})
    stage.tell = lambda line: stage.on_kill() if line.startswith("pid ") else None
    with pytest.raises(AirflowException, match="exit code 143"):
        stage.execute({})
    assert stage.killed
    assert saved.read_text() == "saved\n"


def test_on_kill_before_anything_runs_does_nothing():
    stage, _ = operator()
    stage.on_kill()
    assert stage.killed


def test_a_stage_is_handed_the_operators_pins(monkeypatch):
    """Whatever else of the worker's environment a stage is given: on Composer the default pins hold in it."""
    given = {}

    class Recorder:
        def run(self, module, arguments, environ):
            given.update(environ)
            return stage_runner.Ended(0, "uri")

    monkeypatch.delenv("MLAPP_PINNED", raising=False)
    monkeypatch.setenv("COMPOSER_ENVIRONMENT", "mlapp")
    monkeypatch.setattr(stage_runner, "runner_at", lambda place, say: Recorder())
    stage, _ = operator()
    assert stage.execute({}) == "uri"
    assert "vetting" in given["MLAPP_PINNED"].split(",")


def test_an_unknown_runner_is_named():
    stage, _ = operator(runner="moon")
    with pytest.raises(ValueError, match="no runner 'moon': choose one of local"):
        stage.execute({})


class MappedResults(Sequence[str]):
    """As Airflow gives the results of mapped tasks: lazily, and best taken in one slice."""

    def __getitem__(self, key: Any) -> Any:
        assert isinstance(key, slice), "asked one by one"
        return ["s0", "s1"]

    def __len__(self) -> int:
        return 2


def test_nested_lists_and_results_of_mapped_tasks_become_one_row():
    assert flat(["teacher", MappedResults(), [["p0"], None, ("p1",)]]) == ["teacher", "s0", "s1", "p0", "p1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"data": "d"}, ["--data=d"]),
        ({"ended_to": "d"}, ["--ended-to=d"]),
        ({"data": "--force"}, ["--data=--force"]),
        ({"width": 0.5, "limit": 0}, ["--width=0.5", "--limit=0"]),
        ({"results": ["a", ["b"]]}, ["--results", "a", "b"]),
        ({"force": True}, ["--force"]),
        ({"force": False, "source": None}, []),
    ],
)
def test_how_a_value_becomes_arguments(arguments, expected):
    assert command_line(arguments) == expected


def test_importing_the_operator_loads_no_stage_and_no_runner():
    import subprocess
    import sys

    code = "import sys, stage_operator; print([m for m in sys.modules if m in ('mlapp', 'local_runner', 'tensorflow')])"
    path = next(path for path in sys.path if path.endswith("plugins") and "tests" not in path)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
