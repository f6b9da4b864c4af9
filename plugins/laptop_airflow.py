"""`make airflow`: scheduler, triggerer, DAG processor and web server on this machine, with a home of their own.

Everything listens on loopback only, where nobody is asked for a password; the web server answers to the names of this
machine alone, so that no web page can reach it under another name. Beyond loopback it is started with passwords only.
The log servers stay off: all components read the same disk.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO

import laptop_announce
import laptop_homes
from laptop_homes import refuse

from mlapp.death_signal import tied

COMPONENTS = {
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "api-server": ["api-server"],
}
GRACE_S = 15.0
# Outlives this process, is written the components' process groups, and ends those that a kill of this one left: a
# scheduler that is told to end by the kernel can wait for its workers for ever.
WATCH = """
import os, signal, sys, time

def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups = [int(line) for line in sys.stdin]
deadline = time.monotonic() + float(sys.argv[1])
while any(map(alive, groups)) and time.monotonic() < deadline:
    time.sleep(0.2)
for group in filter(alive, groups):
    os.killpg(group, signal.SIGKILL)
"""
OUTSIDE = {"0.0.0.0", "::", ""}  # noqa: S104 (what is refused)


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived."""


def main(argv: list[str] | None = None) -> None:
    """Check, prepare, start the components, wait. Exit codes: 0 stopped, 1 a component ended by itself, 2 refused."""
    parser = argparse.ArgumentParser(prog="laptop_airflow.py", description=__doc__)
    default = os.environ.get("AIRFLOW__API__HOST") or "127.0.0.1"
    parser.add_argument("--host", default=default, help="address to listen on (%(default)s)")
    port = os.environ.get("AIRFLOW__API__PORT") or "8080"
    parser.add_argument("--port", default=port, help="port to listen on (%(default)s)")
    parser.add_argument("--passwords", action="store_true", help="ask for a password, which Airflow prints once")
    arguments = parser.parse_args(argv)
    host, number = arguments.host or default, arguments.port or port
    if not number.isdecimal() or not 0 < int(number) < 65536:
        refuse(f"port {number!r} is not between 1 and 65535: give PORT=8080 or another one")
    if not is_loopback(host) and not arguments.passwords:
        refuse(f"{host} can be reached from other machines, and nobody would be asked for a password: add PASSWORDS=1")
    home = laptop_homes.terminal().with_name("standalone")
    laptop_homes.check(home)
    check_port(host, int(number))
    environ = environment(home, host, int(number), arguments.passwords)
    laptop_homes.prepare(home, environ)
    lock = laptop_homes.hold(home, "this Airflow")
    laptop_homes.note(lock, f"make airflow (process {os.getpid()}, {environ['AIRFLOW__API__BASE_URL']})")
    sys.exit(supervise(home, environ, lock))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Refuse an address that is taken, or is not one of this machine's, before anything starts."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        refuse(
            f"cannot listen on {host}, port {port} ({error.strerror}): give another one, as in make airflow PORT=8090"
        )


def environment(home: Path, host: str, port: int, passwords: bool) -> dict[str, str]:
    """The environment of all components: that of `env.sh`, for this home and this address."""
    near = "127.0.0.1" if host in {*OUTSIDE, "localhost"} else f"[{host}]" if ":" in host else host
    named = [] if host in OUTSIDE else [host]
    allowed = ["localhost", "127.0.0.1", "::1", *named, *os.environ.get("MLAPP_ALLOWED_HOSTS", "").split(",")]
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / laptop_homes.DATABASE}",
        "AIRFLOW__API__HOST": host,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://{near}:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{near}:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(not passwords),
        "MLAPP_ALLOWED_HOSTS": ",".join(name.strip() for name in allowed if name.strip()),
        "PYTHONUNBUFFERED": "1",
    }


def supervise(home: Path, environ: Mapping[str, str], lock: IO[str]) -> int:
    """Run the components until one ends or this process is told to stop; none is left running."""
    laptop_homes.on_stop(_stop)
    laptop_homes.end_with_make()
    address = home / laptop_announce.ADDRESS
    running: dict[str, subprocess.Popen[str]] = {}
    watcher = watch(GRACE_S)
    assert watcher.stdin
    try:
        for name, command in COMPONENTS.items():
            running[name] = _start(name, command, environ, lock)
            watcher.stdin.write(f"{running[name].pid}\n")
            watcher.stdin.flush()
        url = environ["AIRFLOW__API__BASE_URL"]
        ready = False
        while not (ended := [name for name, process in running.items() if process.poll() is not None]):
            if not ready and (ready := _answers(url)):
                address.write_text(url, encoding="utf-8")
                _say("airflow", f"Airflow is ready: {url} (Ctrl-C stops it)")
            time.sleep(0.5)
        code = running[ended[0]].returncode
        sys.stderr.write(f"error: the {ended[0]} ended by itself (exit code {code}): its last lines say why\n")
    except Stopped:
        return 0
    else:
        return 1
    finally:
        address.unlink(missing_ok=True)
        _end(running)
        watcher.communicate()


def watch(grace_s: float) -> subprocess.Popen[str]:
    """Start the process that ends what is left of the groups it is written, once its standard input is closed."""
    command = [sys.executable, "-ISc", WATCH, str(grace_s)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


def _stop(signum: int, frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # another one must not cut the end short
    raise Stopped


def _start(name: str, command: list[str], environ: Mapping[str, str], lock: IO[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*tied(signal.SIGTERM), sys.executable, "-m", "airflow", *command],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=[lock.fileno()],  # the home is in use as long as one of them lives
    )
    assert process.stdout is not None
    threading.Thread(target=_follow, args=(name, process.stdout), daemon=True).start()
    return process


def _follow(name: str, lines: IO[str]) -> None:
    for line in lines:
        _say(name, line.rstrip())


def _say(name: str, line: str) -> None:
    sys.stdout.write(f"{name:13} | {line}\n")
    sys.stdout.flush()


def _answers(url: str) -> bool:
    try:
        health = laptop_announce.call(url, "api/v2/monitor/health")
    except (OSError, ValueError):
        return False
    return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))


def _end(running: Mapping[str, subprocess.Popen[str]]) -> None:
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in running.values():
        with contextlib.suppress(subprocess.TimeoutExpired):  # its whole group is killed below
            process.wait(max(0.1, deadline - time.monotonic()))
    for process in running.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
