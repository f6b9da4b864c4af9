"""The project's Airflow homes on a laptop, each with a database of its own.

``terminal`` is for `make run` and `airflow dags test`, and no scheduler reads it; ``standalone`` is for `make airflow`.
Only a home that the project made, which its marker file says, is ever migrated or written.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

MARKER = ".mlapp"
MIGRATED = "migrated"
LOCK = "in-use"
DATABASE = "airflow.db"


def refuse(line: str) -> NoReturn:
    """End the command with one line, before anything is done."""
    sys.stderr.write(f"error: {line}\n")
    sys.exit(2)


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have Ctrl-C, SIGTERM and a terminal that closes end this process alike; `nohup` keeps it from the last."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT also where a background job ignores it
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def end_with_make() -> None:
    """Have the kernel end this process with the `make` that started it, also where that is killed."""
    if sys.platform == "linux" and "MAKELEVEL" in os.environ:
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def terminal() -> Path:
    """The home that `env.sh` selects."""
    home = os.environ.get("AIRFLOW_HOME")
    if not home:
        refuse("AIRFLOW_HOME is not set: source env.sh first, or use make")
    return Path(home)


def check(home: Path) -> None:
    """Refuse a home that the project did not make; one that is still empty is nobody's."""
    if odd := {*"?#%"} & {*str(home)}:  # the database's address would end there, and name a file elsewhere
        refuse(f"{home} holds {' and '.join(sorted(odd))}: give MLAPP_AIRFLOW_HOME a folder of another name")
    if home.exists() and any(home.iterdir()) and not (home / MARKER).exists():
        refuse(f"{home} is not a home that this project made: source env.sh, and give MLAPP_AIRFLOW_HOME a new folder")


def prepare(home: Path, environ: Mapping[str, str]) -> None:
    """Make the home, or bring its database up to the installed Airflow."""
    check(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARKER).touch()
    stamp, installed = home / MIGRATED, version("apache-airflow")
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    with (home / "migrate.log").open("a", encoding="utf-8") as log:
        fcntl.flock(log, fcntl.LOCK_EX)  # of two that start at once, one migrates and the other waits
        if (home / DATABASE).exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == installed:
            return
        log.truncate(0)
        done = subprocess.run(command, env=dict(environ), stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            refuse(f"Airflow's database could not be prepared ({home / 'migrate.log'}): remove {home} and run again")
        stamp.write_text(installed, encoding="utf-8")


def hold(home: Path, purpose: str) -> IO[str]:
    """Keep the home for this process until the file that this returns is closed; refuse where another one has it."""
    lock = (home / LOCK).open("a+", encoding="utf-8")
    lock.seek(0)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = (lock.readline().strip() or "another process").replace("\t", ", ")
        refuse(f"{home} is in use by {holder}: wait for it, or give MLAPP_AIRFLOW_HOME another folder for {purpose}")
    return lock


def in_use(home: Path) -> bool:
    """Whether a process has the home."""
    if not (home / LOCK).exists():
        return False
    with (home / LOCK).open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def note(lock: IO[str], holder: str) -> None:
    """Write who holds the home, for those who are refused."""
    lock.seek(0)
    lock.truncate()
    lock.write(f"{holder}\n")
    lock.flush()


if __name__ == "__main__":
    prepare(terminal(), os.environ)
