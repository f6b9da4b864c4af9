"""The Ray that a search runs on: a local one of its own, gone when the search is, or the cluster at ``RAY_ADDRESS``."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlapp
from mlapp.errors import Terminated, UserError, termination_deferred
from mlapp.schema import Tuning
from mlapp.tune.closed import NO_METRICS, closed, environment
from mlapp.tune.plan import MB, Node, Plan, plan, share
from mlapp.tune.processes import born_since, children, kill, overdue
from mlapp.tune.session import RAYS_OWN, last_words, session

log = logging.getLogger("mlapp")
ROOT = Path(mlapp.__file__).parents[1]
ANSWER_S = 5.0
START_S = 60.0  # Ray's start takes three seconds, or half a minute on a busy machine
OBJECT_STORE = 80 * MB  # the least that Ray takes; results are a few numbers
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "OMP_WAIT_POLICY": "passive",  # trials of trees: threads that spin while they wait cost three times the CPU
}


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to."""

    plan: Plan
    own: bool
    folder: Path


@contextmanager
def connected(config: Tuning, workdir: Path) -> Iterator[Cluster]:
    """Ray, started or joined, for the time of the block; then it is left, or ended with all its processes."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    with _local(config, workdir) if address == "local" else _joined(config, address) as cluster:
        yield cluster


@contextmanager
def _local(config: Tuning, workdir: Path) -> Iterator[Cluster]:
    with session(workdir) as folder, closed(folder, _for_workers()):
        import joblib
        import ray
        from ray._private.utils import estimate_available_memory  # knows of a container's limits, unlike psutil

        planned = plan(config, [Node(joblib.cpu_count(), estimate_available_memory())], own=True)
        before = children()
        try:
            with _started_in_time(before, folder):
                _init(
                    address="local",
                    num_cpus=planned.concurrency * planned.cpus,
                    _memory=planned.concurrency * planned.memory,
                    object_store_memory=OBJECT_STORE,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder / RAYS_OWN),
                    _system_config=NO_METRICS,
                )
                gpus = ray.cluster_resources().get("GPU", 0.0)
            yield Cluster(replace(planned, gpus=share(gpus, planned.concurrency)), own=True, folder=folder)
        finally:
            with termination_deferred():
                born = born_since(before)
                ray.shutdown()
                kill(born)


@contextmanager
def _started_in_time(before: set[int], folder: Path) -> Iterator[None]:
    """A `UserError` with the last words of Ray's own log where Ray does not come up."""
    with overdue(before, START_S, lambda: last_words(folder)) as too_late:
        try:
            yield
        except Exception as error:
            why = f"did not start within {START_S:g} s" if too_late.is_set() else "could not be started"
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"Ray {why} ({first}; {last_words(folder)}): see that memory, disk and processes are free on this "
                "machine and try again, or join a cluster with RAY_ADDRESS"
            ) from error


@contextmanager
def _joined(config: Tuning, address: str) -> Iterator[Cluster]:
    _require_answer(address)
    with environment(_for_workers()):
        import ray

        try:
            _init(address=address, runtime_env={"py_modules": [str(Path(mlapp.__file__).parent)], "env_vars": QUIET})
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot join the Ray cluster at RAY_ADDRESS={address} ({reason}): correct or unset it; where it wants "
                "a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, a file that holds it"
            ) from error
        try:
            nodes = [
                Node(has.get("CPU", 0), has.get("memory", 0), has.get("GPU", 0))
                for has in (node["Resources"] for node in ray.nodes() if node["Alive"])
            ]
            log.info("joined the Ray cluster at %s: %d machines", address, len(nodes))
            with tempfile.TemporaryDirectory(prefix="mlapp-tune-") as folder:
                yield Cluster(plan(config, nodes, own=False), own=False, folder=Path(folder))
        finally:
            ray.shutdown()


@contextmanager
def stops() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `Terminated` if SIGTERM or Ctrl-C arrived meanwhile.

    Raised wherever the signal finds the process, inside Ray's native code, it would come out as a SystemError.
    """
    arrived: list[int] = []

    def check() -> None:
        if arrived:
            raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    check()


def _init(**settings: Any) -> None:
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    with _signals_heard() as heard:
        try:
            ray.init(configure_logging=False, log_to_driver=False, **settings)
        except SystemExit as stop:  # what Ray makes of a SIGTERM
            raise Terminated from stop
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
    if signal.SIGTERM in heard:  # in a place of Ray's where an exception is lost
        raise Terminated


@contextmanager
def _signals_heard() -> Iterator[list[int]]:
    """Yield a list that holds, once the block is over, every signal that arrived in it, anyone who handled it."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(before)
        with contextlib.suppress(BlockingIOError):
            heard += os.read(reading, 4096)
        os.close(reading)
        os.close(writing)


def _require_answer(address: str) -> None:
    """Refuse an address where no Ray answers: Ray itself would try for a minute, then abort the process."""
    import grpc

    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise UserError(f"RAY_ADDRESS={address} is no address: give the head node's host:port, or local")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=ANSWER_S)  # which Ray has, a proxy not
    except (OSError, OverflowError, grpc.FutureTimeoutError, grpc.RpcError) as error:
        if isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return  # the answer of a Ray that wants a token, which Ray itself will show
        reason = getattr(error, "strerror", None) or "no answer of a Ray"
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}): start it, mend the address, or unset it for "
            "a local one"
        ) from error


def _for_workers() -> dict[str, str]:
    """Quiet, and with this project on the path of every worker."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**QUIET, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
