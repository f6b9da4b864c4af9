"""The two DAGs under Airflow's own scheduler: data by the clock, training by data, and nothing trained on twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlapp.config import read_preset
from mlapp.result import StageResult
from tests.e2e.workspace import PRESET, ROOT, Workspace

pytestmark = pytest.mark.timeout(900)
DATA, TRAINING = "fashion_mnist_data", "fashion_mnist_training"
PATIENCE_S = 420.0


class Airflow:
    """`airflow standalone` in a workspace, and its REST API."""

    def __init__(self, workspace: Workspace) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # Scheduled runs take the settings of the environment: those of the smoke preset here.
        settings = {
            f"MLAPP_{section.upper()}__{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for section, values in read_preset(PRESET).items()
            for name, value in values.items()
        }
        self.log = (workspace.folder / "standalone.log").open("w")
        self.process = subprocess.Popen(
            ["bash", "-c", f'source "{ROOT}/env.sh" && exec airflow standalone'],
            cwd=workspace.folder,
            env={**workspace.environ, **settings, "AIRFLOW__API__PORT": str(self.port), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the scheduler and all that it started."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """A call of the REST API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        if path.startswith("api/"):
            request.add_header("Authorization", f"Bearer {self.ask('auth/token')['access_token']}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The DAG's runs, the oldest first."""
        return self.ask(f"api/v2/dags/{dag_id}/dagRuns?order_by=id")["dag_runs"]  # type: ignore[no-any-return]

    def states(self, run: dict[str, Any]) -> dict[str, str]:
        """The state of each task of a run."""
        answer = self.ask(f"api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances")
        return {task["task_id"]: task["state"] for task in answer["task_instances"]}

    def finished(self, dag_id: str, count: int) -> list[dict[str, Any]]:
        """The DAG's runs, once ``count`` of them have ended."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            runs = self.runs(dag_id)
            if len([run for run in runs if run["state"] in ("success", "failed")]) >= count:
                return runs
            time.sleep(1)
        pytest.fail(f"{dag_id} has no {count} finished runs: {runs}\n{Path(self.log.name).read_text()[-5000:]}")


@pytest.fixture(scope="module")
def airflow(workspace: Workspace) -> Iterator[Airflow]:
    """Airflow, up and with both DAGs known."""
    server = Airflow(workspace)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if {DATA, TRAINING} <= {dag["dag_id"] for dag in server.ask("api/v2/dags")["dags"]}:
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            assert time.monotonic() < deadline, Path(server.log.name).read_text()[-5000:]
            time.sleep(1)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def scheduled(airflow: Airflow) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first day's data run, and the training run that it started."""
    paused = airflow.ask(f"api/v2/dags/{DATA}")["is_paused"]
    assert paused, "the schedule must be switched on by a person"
    airflow.ask(f"api/v2/dags/{DATA}", "PATCH", {"is_paused": False})
    [data] = airflow.finished(DATA, 1)
    [training] = airflow.finished(TRAINING, 1)
    return data, training


def test_one_scheduled_run_makes_up_for_no_missed_days(scheduled: tuple[dict[str, Any], ...]) -> None:
    data, _ = scheduled
    assert (data["run_type"], data["state"]) == ("scheduled", "success")


def test_new_data_start_a_training_with_the_settings_they_were_made_with(
    airflow: Airflow, scheduled: tuple[dict[str, Any], ...], workspace: Workspace
) -> None:
    _, training = scheduled
    assert (training["run_type"], training["state"]) == ("asset_triggered", "success")
    assert set(airflow.states(training).values()) == {"success"}
    assert (workspace.folder / "registry" / "fashion_mnist" / "CHAMPION").exists()
    results = [StageResult.load(str(path)) for path in workspace.results()]
    assert len([result for result in results if result.stage == "transform"]) == 1, "the data were prepared once"


def test_the_event_tells_digest_counts_and_quality(airflow: Airflow, scheduled: tuple[dict[str, Any], ...]) -> None:
    events = airflow.ask("api/v2/assets/events?order_by=timestamp")["asset_events"]
    told = next(event["extra"] for event in events if event["source_dag_id"] == DATA)
    assert told["class_counts"]["test"] == dict.fromkeys(told["class_counts"]["test"], 100)
    assert told["quality"]["test leaked"] == 0
    model = next(event["extra"] for event in events if event["source_dag_id"] == TRAINING)
    assert model["data"] == told["digest"]
    assert model["outcome"].startswith("promoted fashion_mnist/")


def test_the_same_data_again_train_nothing_and_a_person_still_may(
    airflow: Airflow, scheduled: tuple[dict[str, Any], ...]
) -> None:
    """Given two more data runs at once, which wait for each other, then neither starts work; a trigger by hand does."""
    now = {"logical_date": None}
    for _ in range(2):
        airflow.ask(f"api/v2/dags/{DATA}/dagRuns", "POST", now)
    data = airflow.finished(DATA, 3)
    assert [run["state"] for run in data] == ["success"] * 3
    assert data[1]["end_date"] <= data[2]["start_date"]
    time.sleep(10)  # both events may start one run or two
    trainings = airflow.finished(TRAINING, len(airflow.runs(TRAINING)))
    for run in trainings[1:]:
        states = airflow.states(run)
        assert (run["state"], states.pop("wanted"), set(states.values())) == ("success", "success", {"skipped"})
    assert len(trainings) >= 2
    airflow.ask(f"api/v2/dags/{TRAINING}/dagRuns", "POST", now)
    by_hand = airflow.finished(TRAINING, len(trainings) + 1)[-1]
    assert set(airflow.states(by_hand).values()) == {"success"}
