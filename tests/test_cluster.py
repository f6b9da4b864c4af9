"""TF_CONFIG: what it may say, and the one line for each way to contradict itself, before TensorFlow is imported."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlapp import cluster
from mlapp.errors import Dismissed, UserError, WorkerLostError
from mlapp.result import StageResult

CHIEF, ONE, TWO = "10.0.0.1:2222", "10.0.0.2:2222", "10.0.0.3:2222"


def read(content: Any) -> cluster.Cluster | None:
    return cluster.read({"TF_CONFIG": content if isinstance(content, str) else json.dumps(content)})


def config(role: str = "worker", index: Any = 0, **roles: Any) -> dict[str, Any]:
    return {"cluster": roles or {"chief": [CHIEF], "worker": [ONE, TWO]}, "task": {"type": role, "index": index}}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_as_vertex_ai_sets_it_the_chief_comes_first_then_the_workers() -> None:
    found = read({**config("worker", 1), "environment": "cloud", "job": "{}"})
    assert found is not None
    assert [task.name for task in found.tasks] == ["chief", "worker 0", "worker 1"]
    assert (found.own, found.is_chief, found.task.address) == (2, False, TWO)
    assert found.addresses == {"chief": [CHIEF], "worker": [ONE, TWO]}


def test_without_a_chief_worker_0_is_it() -> None:
    found = read(config("worker", 0, worker=[ONE, TWO]))
    assert found
    assert found.is_chief


@pytest.mark.parametrize("text", ["", " ", json.dumps(config("chief", 0, chief=[CHIEF]))])
def test_nothing_or_one_task_alone_is_no_cluster(text: str) -> None:
    assert read(text) is None


def test_an_evaluator_has_nothing_to_do_and_is_no_part_of_the_training() -> None:
    roles = {"chief": [CHIEF], "worker": [ONE], "evaluator": [TWO]}
    with pytest.raises(Dismissed, match="the workers validate every epoch"):
        read(config("evaluator", 0, **roles))
    assert [task.name for task in read(config("chief", 0, **roles)).tasks] == ["chief", "worker 0"]  # type: ignore[union-attr]


CONTRADICTIONS = [
    ("{chief: 1}", "is not JSON"),
    ("[]", "names no cluster"),
    ("{}", "names no cluster"),
    ({"task": {"type": "worker", "index": 0}}, "names no cluster"),
    ({"cluster": {"worker": [ONE, TWO]}}, "does not say which task this is"),
    (config("master", 0), "task type 'master' is not in its cluster, which has chief, worker"),
    (config("worker", 2), "task index 2 is out of range: its cluster has 2 of worker"),
    (config("worker", -1), "task index -1 is not a number"),
    (config("worker", "first"), "task index 'first' is not a number"),
    (config("worker", 0, worker=[ONE, ONE]), f"worker 0 and worker 1 have the same address {ONE}"),
    (config("worker", 0, chief=[ONE], worker=[ONE]), "chief 0 and worker 0 have the same address"),
    (config("worker", 0, worker=["10.0.0.2", TWO]), "address '10.0.0.2' of worker 0 is not host:port"),
    (config("worker", 0, worker=[ONE, "10.0.0.3:99999"]), "is not host:port, with a port from 1 to 65535"),
    (config("worker", 0, worker=ONE), "the addresses of worker are not a list"),
    (config("chief", 0, chief=[CHIEF, TWO], worker=[ONE]), "has 2 chiefs"),
    (config("worker", 0, worker=[ONE], ps=[TWO]), "has parameter servers (ps)"),
    (config("workerpool0", 0, workerpool0=[ONE]), "unknown role 'workerpool0'"),
]


@pytest.mark.parametrize(("content", "told"), CONTRADICTIONS)
def test_a_contradiction_is_told_in_one_line(content: Any, told: str) -> None:
    with pytest.raises(UserError) as raised:
        read(content)
    assert str(raised.value).startswith("TF_CONFIG")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture
def trainer(tmp_path: Path, planted_data: StageResult) -> Callable[[Any], subprocess.CompletedProcess[str]]:
    """A function that starts the trainer with this TF_CONFIG; its last line tells whether TensorFlow was imported."""

    def started(content: Any) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys, atexit; from mlapp.dl.dnn_trainer import run;"
            "atexit.register(lambda: print('tensorflow:', 'tensorflow' in sys.modules)); run.main()"
        )
        command = [sys.executable, "-c", code, "--data", planted_data.uri, "--workdir", str(tmp_path / "work")]
        environment = {**os.environ, "TF_CONFIG": json.dumps(content)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return started


def test_a_trainer_refuses_a_contradiction_in_seconds_without_tensorflow(trainer: Callable[..., Any]) -> None:
    done = trainer(config("worker", 0, worker=[ONE, ONE]))
    assert done.returncode == 2
    assert done.stdout.strip() == "tensorflow: False"
    *_, last = done.stderr.splitlines()
    assert "error: TF_CONFIG: worker 0 and worker 1 have the same address" in last
    assert "Traceback" not in done.stderr


def test_an_evaluator_ends_well_and_at_once(trainer: Callable[..., Any]) -> None:
    done = trainer(config("evaluator", 0, chief=[CHIEF], worker=[ONE], evaluator=[TWO]))
    assert (done.returncode, done.stdout) == (0, "tensorflow: False\n")
    assert "train: evaluator: nothing to do" in done.stderr


def test_workers_meet_however_late_one_starts() -> None:
    ports = free_ports(2)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    code = "import sys, time; from mlapp import cluster; time.sleep(1.5)\nwith cluster.read().met(20): sys.stdin.read()"
    environment = {**os.environ, "TF_CONFIG": json.dumps(config("worker", 1, worker=addresses))}
    late = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)
    early = read(config("worker", 0, worker=addresses))
    assert early
    with early.met(20):
        assert early.others[0].answers(1)
    late.communicate(timeout=20)
    assert late.returncode == 0


def test_a_worker_that_never_comes_up_is_named_after_the_stated_time() -> None:
    ports = free_ports(3)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    there = read(config("worker", 0, worker=addresses))
    assert there
    started = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", ports[1])),
        pytest.raises(WorkerLostError, match=rf"worker 2 \({addresses[2]}\) did not come up within 1 s") as raised,
        there.met(1),
    ):
        pass
    assert "worker 1" not in str(raised.value)
    assert time.monotonic() - started < 5


def test_a_port_that_an_earlier_run_still_holds_is_told() -> None:
    ports = free_ports(2)
    own = read(config("worker", 0, worker=[f"127.0.0.1:{port}" for port in ports]))
    assert own
    with (
        socket.create_server(("", ports[0])),
        pytest.raises(WorkerLostError, match=f"cannot listen at port {ports[0]}.*address already in use"),
        own.met(1),
    ):
        pass


def test_a_lost_worker_is_named_by_tensorflows_message_or_by_its_silence() -> None:
    ports = free_ports(3)
    found = read(config("worker", 0, worker=[f"127.0.0.1:{port}" for port in ports]))
    assert found
    with socket.create_server(("127.0.0.1", ports[1])), socket.create_server(("127.0.0.1", ports[2])):
        told = "The following tasks are unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1"
        assert str(found.lost(told)).startswith("worker 1 was lost: start all workers again")
        assert str(found.lost("aborted")).startswith("a worker was lost")
    assert str(found.lost("aborted")).startswith("worker 1 and worker 2 were lost")
