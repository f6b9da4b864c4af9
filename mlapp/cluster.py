"""Which machines train together: what `TF_CONFIG` says, checked before TensorFlow is imported.

Vertex AI, Kubeflow and others start the same command on every machine and set ``TF_CONFIG`` to
``{"cluster": {"chief": ["host:port"], "worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlapp import plain
from mlapp.errors import Dismissed, UserError, WorkerLostError

log = logging.getLogger("mlapp")
VARIABLE = "TF_CONFIG"
ROLES = ("chief", "worker")  # in the order in which TensorFlow counts them
HEARTBEAT_S = 20.0


@dataclass(frozen=True)
class Task:
    """One process of a cluster."""

    role: str
    index: int
    address: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.role if self.role == "chief" else f"{self.role} {self.index}"

    def answers(self, timeout: float) -> bool:
        """Whether something listens at its address."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Cluster:
    """The processes that train together, the first of them the chief, and which of them this one is."""

    tasks: tuple[Task, ...]
    own: int

    @property
    def task(self) -> Task:
        """This process."""
        return self.tasks[self.own]

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints and results: the chief, or worker 0 where there is none."""
        return self.own == 0

    @property
    def others(self) -> tuple[Task, ...]:
        """All but this process."""
        return self.tasks[: self.own] + self.tasks[self.own + 1 :]

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Addresses by role, as TensorFlow wants them."""
        found = {role: [task.address for task in self.tasks if task.role == role] for role in ROLES}
        return {role: addresses for role, addresses in found.items() if addresses}

    @contextmanager
    def met(self, seconds: float) -> Iterator[None]:
        """Enter once every other worker can be reached, itself reachable throughout; or name who is missing."""
        port = int(self.task.address.rpartition(":")[2])
        try:
            listening = socket.create_server(("", port), backlog=128)
        except OSError as error:
            raise WorkerLostError(
                f"{self.task.name} cannot listen at port {port} ({os.strerror(error.errno or 0).lower()}): "
                "end what holds it (an earlier run?) and start all workers again"
            ) from error
        with listening:
            self._wait(seconds)
            yield

    def _wait(self, seconds: float) -> None:
        started = spoken = time.monotonic()
        missing = self.others
        while missing := tuple(task for task in missing if not task.answers(timeout=2.0)):
            now = time.monotonic()
            told = ", ".join(f"{task.name} ({task.address})" for task in missing)
            if now - started > seconds:
                raise WorkerLostError(
                    f"{told} did not come up within {seconds:g} s: look at its log, then start all workers again, "
                    "or allow more with devices.start_timeout"
                )
            if now - spoken > HEARTBEAT_S:
                spoken = now
                log.info("waiting for %s", told)
            time.sleep(0.2)

    def lost(self, told: str) -> WorkerLostError:
        """The line for a failed exchange between workers: names those that ``told`` names or that do not answer."""
        named = {(role, int(index)) for role, index in re.findall(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", told)}
        gone = [task.name for task in self.others if (task.role, task.index) in named or not task.answers(timeout=2.0)]
        return WorkerLostError(
            f"{' and '.join(gone) or 'a worker'} {'were' if len(gone) > 1 else 'was'} lost: start all workers again, "
            "the run goes on from its last checkpoint"
        )


def read(environ: Mapping[str, str] | None = None) -> Cluster | None:
    """The cluster that ``TF_CONFIG`` describes; None where this process trains alone.

    A `UserError` says in one line what contradicts itself. An evaluator is dismissed: the workers validate every
    epoch themselves.
    """
    text = (os.environ if environ is None else environ).get(VARIABLE, "")
    if not text.strip():
        return None
    try:
        content = plain.from_json(text)
    except ValueError as error:
        raise UserError(
            f"{VARIABLE} is not JSON ({error}): mend it, or unset it to train on this machine alone"
        ) from error
    addresses = _addresses(content)
    role, index = _own_task(content, addresses)
    if role == "evaluator":
        raise Dismissed("evaluator: nothing to do, the workers validate every epoch themselves")
    tasks = tuple(Task(role, index, address) for role in ROLES for index, address in enumerate(addresses.get(role, ())))
    own = [(task.role, task.index) for task in tasks].index((role, index))
    return Cluster(tasks, own) if len(tasks) > 1 else None


def _addresses(content: Any) -> dict[str, list[str]]:
    cluster = content.get("cluster") if isinstance(content, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        raise UserError(
            f"{VARIABLE} names no cluster: give addresses by role, as in "
            '{"cluster": {"worker": ["host:port", …]}, "task": {…}}, or unset it to train on this machine alone'
        )
    if cluster.get("ps"):
        raise UserError(
            f"{VARIABLE} has parameter servers (ps), which this trainer does not use: give chief and worker only"
        )
    for role, addresses in cluster.items():
        if role not in (*ROLES, "evaluator", "ps"):
            raise UserError(f"{VARIABLE} has unknown role {role!r} in its cluster: known are chief, worker, evaluator")
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise UserError(f"{VARIABLE}: the addresses of {role} are not a list of host:port: {json.dumps(addresses)}")
    if len(cluster.get("chief", ())) > 1:
        raise UserError(f"{VARIABLE} has {len(cluster['chief'])} chiefs: give one, the others as worker")
    every = [(f"{role} {index}", address) for role in cluster for index, address in enumerate(cluster[role])]
    for name, address in every:
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(f"{VARIABLE}: address {address!r} of {name} is not host:port, with a port from 1 to 65535")
        twins = [other for other, same in every if same == address]
        if len(twins) > 1:
            raise UserError(f"{VARIABLE}: {' and '.join(twins)} have the same address {address}: give each its own")
    return cluster


def _own_task(content: dict[str, Any], addresses: dict[str, list[str]]) -> tuple[str, int]:
    task = content.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= set(task):
        raise UserError(f'{VARIABLE} does not say which task this is: add "task": {{"type": "worker", "index": 0}}')
    role, index = task["type"], task["index"]
    if role not in addresses:
        raise UserError(f"{VARIABLE}: task type {role!r} is not in its cluster, which has {', '.join(addresses)}")
    if isinstance(index, bool) or not str(index).isdecimal():
        raise UserError(f"{VARIABLE}: task index {index!r} is not a number from 0")
    count = len(addresses[role])
    if int(index) >= count:
        raise UserError(f"{VARIABLE}: task index {index} is out of range: its cluster has {count} of {role}, from 0 on")
    return role, int(index)
