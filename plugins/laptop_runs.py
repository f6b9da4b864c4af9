"""A run of the terminal ends with its command, however that ends.

`watch` starts a process that outlives the command, waits until it is gone, and marks the run as failed in the
database if it has not ended by then: after Ctrl-C, SIGTERM and SIGKILL alike. A home has one run at a time, so a run
that no command holds has lost its own. As a command this module starts `airflow dags test` under the same watch.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NoReturn

PATIENCE_S = 60.0
GRACE_S = 20.0
WATCH = "--watch"
FINISHED_TASK = "('success', 'failed', 'skipped', 'upstream_failed', 'removed')"


def watch(database: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start the watching process; it ends once its standard input, which this process holds, is closed.

    It keeps the lock of the home until then, so that no other run meets this one half-ended. From here on temporary
    files go into a private folder, which it removes: after a kill nobody else can.
    """
    private = tempfile.mkdtemp(prefix="mlapp-run-")
    os.environ["TMPDIR"] = tempfile.tempdir = private
    return subprocess.Popen(
        [sys.executable, "-IS", __file__, WATCH, str(database), private, str(lock.fileno())],
        stdin=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[lock.fileno()],
    )


def end_runs(database: Path) -> list[tuple[str, str]]:
    """Mark the runs that are at work, and their unfinished tasks, as failed; returns the DAG and the id of each."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=PATIENCE_S)) as connection, connection:
        found = connection.execute("select dag_id, run_id from dag_run where state = 'running'").fetchall()
        for run in found:
            connection.execute(
                "update dag_run set state = 'failed', end_date = ? where dag_id = ? and run_id = ?", (now, *run)
            )
            connection.execute(
                "update task_instance set state = 'failed', end_date = ? where dag_id = ? and run_id = ?"  # noqa: S608
                f" and (state is null or state not in {FINISHED_TASK})",
                (now, *run),
            )
    return found


def remove(private: Path) -> None:
    """Remove the folder of temporary files; a stage that was not killed with its run uses it until it has ended."""
    deadline = time.monotonic() + GRACE_S
    while private.exists() and any(private.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.5)
    shutil.rmtree(private, ignore_errors=True)


def airflow(arguments: list[str]) -> NoReturn:
    """Become `airflow` with these arguments, with the home held and watched until that process is gone."""
    import laptop_homes

    home = laptop_homes.terminal()
    laptop_homes.prepare(home, os.environ)
    lock = laptop_homes.hold(home, "this run")
    end_runs(home / laptop_homes.DATABASE)
    laptop_homes.note(lock, f"airflow {' '.join(arguments[:3])} (process {os.getpid()})")
    watcher = watch(home / laptop_homes.DATABASE, lock)
    assert watcher.stdin
    for held in (lock, watcher.stdin):
        os.set_inheritable(held.fileno(), True)
    os.execv(sys.executable, [sys.executable, "-m", "airflow", *arguments])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    if sys.argv[1] != WATCH:
        airflow(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_runs(Path(sys.argv[2]))
    os.close(int(sys.argv[4]))
    remove(Path(sys.argv[3]))
