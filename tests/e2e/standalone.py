"""A real Airflow: scheduler, triggerer, workers and API in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlapp.config import read_preset
from tests.e2e.workspace import PRESET, ROOT, Workspace

PATIENCE_S = 420.0


class Airflow:
    """What `make airflow` starts, in a workspace, and its REST API."""

    def __init__(self, workspace: Workspace, more: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # Scheduled runs take the settings of the environment: those of the smoke preset here.
        settings = {
            f"MLAPP_{section.upper()}__{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for section, values in read_preset(PRESET).items()
            for name, value in values.items()
        }
        environ = {**workspace.environ, **settings, **more, "PATH": os.environ["PATH"]}
        self.log = (workspace.folder / "standalone.log").open("w")
        self.process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'source "{ROOT}/env.sh" && export AIRFLOW__API__PORT={self.port} && exec airflow standalone',
            ],
            cwd=workspace.folder,
            env={name: value for name, value in environ.items() if value},  # what is empty takes a setting out
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
        pytest.fail(f"{dag_id} has no {count} finished runs: {runs}\n{self.end_of_log()}")

    def until(self, true: Callable[[], Any], told: str) -> None:
        """Wait for something to come true."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                pytest.fail(f"{told}\n{self.end_of_log()}")
            time.sleep(1)

    def end_of_log(self) -> str:
        """The end of the log, without the API's requests: there is one each second that a test waits."""
        lines = Path(self.log.name).read_text().splitlines()
        return "\n".join([line for line in lines if "[http.access]" not in line][-60:])


@contextmanager
def standalone(workspace: Workspace, *dags: str, **more: str) -> Iterator[Airflow]:
    """Airflow, up and with these DAGs known."""
    server = Airflow(workspace, more)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if {*dags} <= {dag["dag_id"] for dag in server.ask("api/v2/dags")["dags"]}:
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            assert time.monotonic() < deadline, server.end_of_log()
            time.sleep(1)
        yield server
    finally:
        server.stop()
