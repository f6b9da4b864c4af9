"""``airflow dags test`` with an output that a person can follow: what `make run` calls.

Only the stages' own lines are shown, and at the end the run's summary, or the one line that says why it failed.
Exit codes: 0 done, 1 the run failed, 2 the given settings are wrong, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

QUIET = {
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.task.operators.stage_operator=INFO task=CRITICAL",
    "AIRFLOW__LOGGING__LOG_FORMAT": "%(message)s",
}
STOPPED = 130
SUMMARY = "summarise"


class Progress:
    """Wraps the function that runs one task, to tell which one runs and to keep why one failed."""

    def __init__(self, run_task: Any) -> None:
        self.run_task = run_task
        self.began = time.monotonic()
        self.failure = ""
        self.run_id = ""
        self.attempt: tuple[str, int] = ("", 0)

    def __call__(self, *, ti: Any, task: Any) -> Any:
        """Run the task; a task that was stopped ends the whole run, which Airflow would go on with."""
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id} {ti.map_index + 1}"
        self.run_id = ti.run_id
        if task.task_id == SUMMARY:
            # The same table that is shown when all is done; only what a tracker complains of is told.
            task.tell = lambda line: say(line) if "W&B" in line else None
        elif not task.task_type.startswith("_") and self.attempt != (name, ti.try_number):
            header = f"── {self._clock()}  {name}"
            if getattr(task, "wanted", "True") == "True":  # a mapped one has none, and is
                say(header)
            else:  # if it is not wanted, it says nothing
                task.tell = headed(header, task.tell)
        self.attempt = (name, ti.try_number)  # the same once more is one that was deferred
        done = self.run_task(ti=ti, task=task)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if isinstance(done.error, KeyboardInterrupt) or getattr(done.ti.task, "killed", False):
            raise KeyboardInterrupt
        if done.error is not None:
            self.failure = f"{name} failed: {done.error}"
            if done.state == "up_for_retry":
                say(f"{self.failure}; it is tried again in {task.retry_delay.seconds} s")
        return done

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        return f"{minutes:02}:{seconds:02}"


def headed(header: str, tell: Callable[[str], object]) -> Callable[[str], None]:
    """What a task tells its lines to, with a header before the first of them."""
    lines = iter([header])

    def told(line: str) -> None:
        for first in lines:
            say(first)
        tell(line)

    return told


def main(argv: list[str] | None = None) -> None:
    """Check the settings, run the DAG, show what came of it."""
    parser = argparse.ArgumentParser(prog="dags_test.py", description=__doc__)
    parser.add_argument("dag_id")
    parser.add_argument("--preset", help="preset name or .yaml file")
    parser.add_argument("--conf", default="{}", metavar="JSON", help="settings on top of the preset")
    arguments = parser.parse_args(argv)
    conf = checked(arguments.conf, arguments.preset)
    os.environ.update(QUIET)
    sys.exit(run(arguments.dag_id, conf))


def checked(text: str, preset: str | None) -> str:
    """The conf of the run as JSON, once it is known to be valid; else the one line, and exit code 2."""
    import json

    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import read_conf, resolve
    from mlapp.errors import UserError

    try:
        conf = {**({"preset": preset} if preset else {}), **read_conf(text)}
        resolve(DEFAULT_PRESET, conf)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    return json.dumps(conf)


def run(dag_id: str, conf: str) -> int:
    """Run the DAG as ``airflow dags test`` does."""
    from airflow.__main__ import main as airflow
    from airflow.sdk.exceptions import ParamValidationError
    from airflow.sdk.execution_time import supervisor
    from stage_operator import StageOperator

    StageOperator.may_defer = False  # so that Ctrl-C comes to the task, which cancels its job
    progress = Progress(supervisor.run_task_in_process)
    supervisor.run_task_in_process = progress
    sys.argv = ["airflow", "dags", "test", dag_id, "--conf", conf]
    try:
        airflow()
    except ParamValidationError as error:
        say(f"error: {str(error).splitlines()[0]}")
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command takes the work up again")
        return STOPPED
    except SystemExit as stop:
        if stop.code:
            say(progress.failure or str(stop.code))
            return 1
    say(f"\n{summary(dag_id, progress.run_id)}")
    return 0


def summary(dag_id: str, run_id: str) -> str:
    """The text that the run's summary stage left beside its result."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    from mlapp import storage

    with create_session() as session:
        query = XComModel.get_many(run_id=run_id, dag_ids=dag_id, task_ids=SUMMARY, key="return_value")
        uri = XComModel.deserialize_value(session.scalars(query).one())
    return str(storage.at(uri).with_name("summary.txt").read_text(encoding="utf-8"))


def say(text: str) -> None:
    """Print a line at once: it stands between those of the stages."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
