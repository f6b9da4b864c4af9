"""`make run`: ``airflow dags test`` with an output that a person can follow.

Only the stages' own lines are shown, and at the end the run's summary, or the one line that says why it failed. The run
uses the terminal's own database, one run at a time, and ends there when this command ends.
Exit codes: 0 done, 1 the run failed, 2 the given settings are wrong, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import laptop_announce
import laptop_homes
import laptop_runs
from laptop_homes import refuse

DAGS = Path(__file__).resolve().parents[1] / "dags"
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
        signal.signal(signal.SIGTERM, stop)
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


def stop(signum: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C and of a closed terminal, and of SIGTERM while no task runs."""
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Check the settings, run the DAG, show what came of it."""
    parser = argparse.ArgumentParser(prog="dags_test.py", description=__doc__)
    parser.add_argument("dag_id")
    parser.add_argument("--preset", help="preset name or .yaml file")
    parser.add_argument("--conf", default="{}", metavar="JSON", help="settings on top of the preset")
    parser.add_argument("--announce", action="store_true", help="announce the outcome to the Airflow of `make airflow`")
    arguments = parser.parse_args(argv)
    names = sorted(path.stem for path in DAGS.glob("*.py"))
    if arguments.dag_id not in names:
        refuse(f"no DAG {arguments.dag_id!r}: choose one of {', '.join(names)}")
    os.environ.update(QUIET)
    laptop_homes.on_stop(stop)
    laptop_homes.end_with_make()
    home = laptop_homes.terminal()
    laptop_homes.prepare(home, os.environ)
    try:
        sys.exit(run(home, arguments))
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the finished stages")
        sys.exit(STOPPED)


def run(home: Path, arguments: argparse.Namespace) -> int:
    """Check the run's settings against its DAG, run it as the only one in this home, announce it if asked to."""
    dag = load(arguments.dag_id)
    conf = checked(arguments.conf, arguments.preset, dag)
    server = laptop_announce.server(home, arguments.dag_id, conf) if arguments.announce else None
    now = datetime.now(UTC)
    run_id = f"manual__{now.isoformat()}"  # Airflow makes the same of the date
    with the_only_run(home, arguments.dag_id):
        code = execute(dag, conf, now)
    if server and not code:
        say(laptop_announce.announce(server, arguments.dag_id, run_id))
    return code


def load(dag_id: str) -> Any:
    """The DAG, as ``airflow dags test`` finds it."""
    from airflow.configuration import write_default_airflow_configuration_if_needed
    from airflow.exceptions import AirflowException
    from airflow.providers_manager import ProvidersManager
    from airflow.utils.cli import get_bagged_dag

    write_default_airflow_configuration_if_needed()
    ProvidersManager().initialize_providers_configuration()
    try:
        return get_bagged_dag(None, dag_id)
    except AirflowException as error:
        refuse(f"{error} See `airflow dags list-import-errors`")


def checked(text: str, preset: str | None, dag: Any) -> dict[str, Any]:
    """The conf of the run, once it is known to be valid for this DAG; else the one line, and exit code 2."""
    import copy

    from airflow.sdk.exceptions import ParamValidationError

    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import read_conf, resolve
    from mlapp.errors import UserError

    try:
        conf = {**({"preset": absolute(preset)} if preset else {}), **read_conf(text)}
        own = {name for name in dag.params if "." not in name} - {"preset", "deployment"}
        resolve(DEFAULT_PRESET, {name: value for name, value in conf.items() if name not in own})
        params = copy.deepcopy(dag.params)
        params.update(conf)
        params.validate()
    except (UserError, ParamValidationError) as error:
        refuse(str(error).splitlines()[0])
    return conf


def absolute(preset: str) -> str:
    """The preset; a file by its whole path, because stages work in another folder."""
    return os.path.abspath(preset) if preset.endswith((".yaml", ".yml")) else preset


@contextmanager
def the_only_run(home: Path, dag_id: str) -> Iterator[None]:
    """Hold the home for this run, and see to it that the run has ended in the database when this process is gone."""
    lock = laptop_homes.hold(home, "this run")
    for earlier, run_id in laptop_runs.end_runs(home / laptop_homes.DATABASE):  # only where a machine stopped
        say(f"{run_id} of {earlier} had not ended: it is marked as failed")
    laptop_homes.note(lock, f"{dag_id} (process {os.getpid()})")
    watcher = laptop_runs.watch(home / laptop_homes.DATABASE, lock)
    try:
        yield
    finally:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)  # whatever a library left there
        watcher.communicate()
        lock.close()


def execute(dag: Any, conf: dict[str, Any], now: datetime) -> int:
    """Run the DAG as ``airflow dags test`` does."""
    from airflow.sdk.execution_time import supervisor
    from stage_operator import StageOperator

    StageOperator.may_defer = False  # so that Ctrl-C comes to the task, which cancels its job
    progress = Progress(supervisor.run_task_in_process)
    supervisor.run_task_in_process = progress
    done = dag.test(logical_date=now, run_after=now, run_conf=conf)
    if done.state != "success":
        say(progress.failure or f"{dag.dag_id} failed")
        return 1
    if SUMMARY in dag.task_dict:
        say(f"\n{summary(dag.dag_id, progress.run_id)}")
    else:
        say(f"{dag.dag_id} is done")
    return 0


def pulled(dag_id: str, run_id: str, task_id: str) -> Any:
    """What a task of a run in this home handed on."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(run_id=run_id, dag_ids=dag_id, task_ids=task_id, key="return_value")
        return XComModel.deserialize_value(session.scalars(query).one())


def summary(dag_id: str, run_id: str) -> str:
    """The text that the run's summary stage left beside its result."""
    from mlapp import storage

    uri = pulled(dag_id, run_id, SUMMARY)
    return str(storage.at(uri).with_name("summary.txt").read_text(encoding="utf-8"))


def say(text: str) -> None:
    """Print a line at once: it stands between those of the stages."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
