"""A search's own Ray is nobody else's: what listens, who is answered, and what environment its processes have."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import psutil
import pytest

from mlapp.result import StageResult
from tests.tune.conftest import ROOT

SECRETS = {
    "WANDB_API_KEY": "planted-wandb",
    "AIRFLOW_CONN_SHOP": "postgres://u:planted-connection@h/d",
    "AIRFLOW__CORE__FERNET_KEY": "planted-fernet",
    "MLAPP_SIGNING__PRIVATE_KEY": "/planted/key.pem",
    "AWS_SECRET_ACCESS_KEY": "planted-aws",
    "DATABASE_PASSWORD": "planted-password",
}
# Settings that a user may have for another Ray.
OF_ANOTHER_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_REDIS_ADDRESS": "127.0.0.1:1",
    "RAY_CLIENT_MODE": "1",
}
# Another program of the same machine, that knows the address and asks for a command to be run.
INTRUDER = """
import sys, ray
try:
    ray.init(address=sys.argv[1], configure_logging=False, log_to_driver=False)
    run = ray.remote(lambda: open(sys.argv[2], "w").close())
    ray.get(run.remote(), timeout=10)
except BaseException as error:
    print(type(error).__name__, error)
"""

# A search that joins the cluster at RAY_ADDRESS.
JOINING = """
import sys
from pathlib import Path
from mlapp.errors import UserError
from mlapp.schema import Tuning
from mlapp.tune.cluster import connected
try:
    with connected(Tuning(trials=1, memory_per_trial_mb=100), Path(sys.argv[1])) as cluster:
        print("joined", cluster.own)
except UserError as error:
    print(error)
"""


class Running:
    """A search at work, and its processes: all that carry its mark, whoever is their parent by now."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.process, self.mark = process, mark

    @property
    def processes(self) -> list[psutil.Process]:
        return [
            process for process in psutil.process_iter() if self.mark in environment_of(process).get("TINY_MARK", "")
        ]

    def listening(self) -> list[tuple[str, str, int]]:
        """Program, address and port of every TCP and UDP socket that is bound."""
        found = []
        for process in self.processes:
            try:
                connections = process.net_connections("inet")
                name = process.name()
            except psutil.NoSuchProcess:
                continue
            for each in connections:
                if each.status == psutil.CONN_LISTEN or (each.type == socket.SOCK_DGRAM and not each.raddr):
                    found.append((name, each.laddr.ip, each.laddr.port))
        return found


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return {}


def is_loopback(address: str) -> bool:
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


@pytest.fixture(scope="module")
def running(planted_data: StageResult, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real search whose two trials are at work, started with secrets and another Ray's settings around it."""
    folder = tmp_path_factory.mktemp("closed")
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    command = [
        *(sys.executable, "-m", "tests.tune.tiny_tuner", "--trainer", "train", "--data", planted_data.uri),
        *("--workdir", str(folder / "work"), "tuning.trials=2", "tuning.concurrency=2", "training.epochs=5"),
        *("tuning.memory_per_trial_mb=200", "tracking.wandb=off", "tuning.grace_period=1"),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    tiny = {"TINY_SECONDS": "60", "TINY_MARK": mark, "MLAPP_CHILD_ENV": "TINY_*", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**kept, **tiny, **SECRETS, **OF_ANOTHER_RAY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        read: list[str] = []
        for line in process.stdout:
            read.append(line)
            if "trial 2/2:" in line:
                break
        else:
            raise AssertionError("".join(read))
        time.sleep(2)
        yield Running(process, mark)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_every_process_of_a_search_listens_on_loopback_alone(running: Running) -> None:
    names = {process.name() for process in running.processes}
    assert {"gcs_server", "raylet"} <= names, names
    sockets = running.listening()
    assert {name for name, _, _ in sockets} >= {"gcs_server", "raylet"}, sockets
    assert [each for each in sockets if not is_loopback(each[1])] == []


def test_the_services_that_a_search_does_not_need_are_not_started(running: Running) -> None:
    commands = [" ".join(process.cmdline()) for process in running.processes]
    assert not [command for command in commands if "dashboard.py" in command or "monitor.py --gcs" in command]
    agent = [process for process in running.processes if "DashboardAgent" in process.name()]
    assert not [each for process in agent for each in process.net_connections("inet") if each.status == "LISTEN"]


def test_no_process_of_ray_has_a_secret_in_its_environment(running: Running) -> None:
    own = running.process.pid
    children = [process for process in running.processes if process.pid != own]
    assert len(children) >= 5
    for process in children:
        found = environment_of(process)
        assert {name: value for name, value in found.items() if name in SECRETS or "planted" in value} == {}, process


def test_the_token_is_in_a_private_file_only(running: Running) -> None:
    paths = {environment_of(process).get("RAY_AUTH_TOKEN_PATH") for process in running.processes} - {None}
    (path,) = (Path(str(path)) for path in paths)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    token = path.read_text()
    assert len(token) == 64
    for process in running.processes:
        assert token not in " ".join([*process.cmdline(), *environment_of(process).values()])
    for log in path.parent.glob("r/session_2*/logs/*.*"):
        assert token not in log.read_text(errors="replace"), log


def test_another_program_cannot_run_a_command_in_it(running: Running, tmp_path: Path) -> None:
    gcs = next(port for name, _, port in running.listening() if name == "gcs_server")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else its Ray does not even look at loopback
    mark = tmp_path / "ran"
    for settings in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = subprocess.run(
            [sys.executable, "-c", INTRUDER, f"127.0.0.1:{gcs}", str(mark)],
            env={**kept, **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "authentication token is missing or incorrect" in (done.stdout + done.stderr).lower(), done
        assert not mark.exists()


def test_no_port_of_it_takes_a_job_over_http(running: Running, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    job = json.dumps({"entrypoint": f"touch {mark}"}).encode()
    for port in {*(port for _, _, port in running.listening()), 8265, 52365}:
        for route in ("api/jobs/", "api/job_agent/jobs/"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/{route}", data=job, headers={"Content-Type": "application/json"}
            )
            with pytest.raises((urllib.error.URLError, OSError, ValueError, http.client.HTTPException)):
                urllib.request.urlopen(request, timeout=5)
    time.sleep(1)
    assert not mark.exists()


def test_a_cluster_that_wants_a_token_is_joined_with_it_and_refuses_in_one_line_without(
    running: Running, tmp_path: Path
) -> None:
    address = next(f"127.0.0.1:{port}" for name, _, port in running.listening() if name == "gcs_server")
    (token,) = {environment_of(process).get("RAY_AUTH_TOKEN_PATH") for process in running.processes} - {None}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept |= {"RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "PYTHONPATH": str(ROOT)}

    def join(**settings: str) -> str:
        command = [sys.executable, "-c", JOINING, str(tmp_path)]
        done = subprocess.run(
            command, env={**kept, **settings}, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr
        return done.stdout.strip()

    assert join(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)) == "joined False"
    told = join()
    assert told.startswith(f"cannot join the Ray cluster at RAY_ADDRESS={address}")
    assert "RAY_AUTH_TOKEN_PATH" in told
    assert "\n" not in told
