"""The containers of a job as local processes: the same arguments and environment, nothing of the caller's own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from google.cloud.aiplatform_v1 import types

ROOT = Path(__file__).parents[2]
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
TASKS = ("chief", "worker", "ps", "evaluator")
GRACE_S = 30.0
SIGNALLED = 128


class Replicas:
    """All replicas of one job. The image's entry point takes a module and its arguments, so that is what is run."""

    def __init__(self, job: types.CustomJob, environ: Mapping[str, str]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="job-", ignore_cleanup_errors=True)
        pools = list(job.job_spec.worker_pool_specs)
        addresses = [[f"127.0.0.1:{free_port()}" for _ in range(pool.replica_count)] for pool in pools]
        cluster = {task: hosts for task, hosts in zip(TASKS, addresses, strict=False) if hosts}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for number, pool in enumerate(pools):
            for index in range(pool.replica_count):
                name = f"workerpool{number}-{index}"
                task = {"cluster": cluster, "task": {"type": TASKS[number], "index": index}, "environment": "cloud"}
                self.processes[name] = self._start(name, job, pool, {**environ, "TF_CONFIG": json.dumps(task)})

    def _start(
        self, name: str, job: types.CustomJob, pool: types.WorkerPoolSpec, environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        home = Path(self.folder.name, name)
        home.mkdir()
        own = {variable.name: variable.value for variable in pool.container_spec.env}
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        vertex = {"CLOUD_ML_JOB_ID": job.name.rpartition("/")[2], "HOME": str(home), "PYTHONPATH": str(ROOT)}
        with Path(self.folder.name, f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *pool.container_spec.args],
                cwd=home,
                env={**kept, **vertex, **environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, patience: Callable[[float], None]) -> tuple[str, int]:
        """Wait for all, or the first that fails: its name and exit status, or the chief's. ``patience`` may raise."""
        while True:
            ended = {name: process.poll() for name, process in self.processes.items()}
            failed = [(name, code) for name, code in ended.items() if code]
            if failed:
                name, code = failed[0]
                return name, code if code > 0 else SIGNALLED - code
            if all(code == 0 for code in ended.values()):
                return next(iter(ended.items()))[0], 0
            patience(0.05)

    def log(self, name: str) -> str:
        """What a replica said."""
        return Path(self.folder.name, f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """SIGTERM to every replica, SIGKILL to whatever is left after the grace."""
        running = [process for process in self.processes.values() if process.poll() is None]
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def kill(self) -> None:
        """What becomes of spot capacity that is taken away: no process is left, and none could save anything."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flag_of(arguments: Sequence[str], flag: str) -> str | None:
    """The value of ``--flag=value`` among the arguments."""
    return next((argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")), None)
