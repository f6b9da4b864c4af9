"""A run of the terminal ends with its command, however that ends.

`watch` starts a process that outlives the command, waits until it is gone, and marks the run as failed in the
database if it has not ended by then: after Ctrl-C, SIGTERM and SIGKILL alike.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

PATIENCE_S = 60.0
UNFINISHED_RUN = "state in ('queued', 'running')"
FINISHED_TASK = "('success', 'failed', 'skipped', 'upstream_failed', 'removed')"


def watch(database: Path, dag_id: str, run_id: str, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start the watching process; it ends once its standard input, which this process holds, is closed.

    It keeps the lock of the home until then, so that no other run meets this one half-ended.
    """
    return subprocess.Popen(
        [sys.executable, "-IS", __file__, str(database), dag_id, run_id],
        stdin=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[lock.fileno()],
    )


def end_run(database: Path, dag_id: str, run_id: str) -> bool:
    """Mark an unfinished run and its unfinished tasks as failed; whether there was one."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    if not database.exists():
        return False
    with closing(sqlite3.connect(database, timeout=PATIENCE_S)) as connection, connection:
        ended = connection.execute(
            f"update dag_run set state = 'failed', end_date = ? where dag_id = ? and run_id = ? and {UNFINISHED_RUN}",  # noqa: S608
            (now, dag_id, run_id),
        ).rowcount
        if ended:
            connection.execute(
                "update task_instance set state = 'failed', end_date = ? where dag_id = ? and run_id = ?"  # noqa: S608
                f" and (state is null or state not in {FINISHED_TASK})",
                (now, dag_id, run_id),
            )
    return bool(ended)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
