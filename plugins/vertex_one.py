"""An errand has one job on Vertex AI: found again after whatever happened, never doubled, ended with its task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from stage_runner import Ended
from vertex_errand import Attempt, Errand, folder_of
from vertex_jobs import CANCELLING, Jobs, UnclearError, console, is_over, state_of
from vertex_records import Records

from mlapp.cloud_errors import brief, could_not_look

KILL_S = 4.0  # Airflow ends a worker 5 s after it told it to


class OneJob:
    """The job of an errand, and what this task may do to it."""

    def __init__(self, errand: Errand, jobs: Jobs, records: Records, say: Callable[[str], object]) -> None:
        self.errand = errand
        self.identity = errand.identity
        self.jobs = jobs
        self.records = records
        self.say = say
        self.killed = False
        self._name = ""

    def found(self, *, fresh: bool) -> Any:
        """The errand's job that no task has heard the end of; None where there is none to take up.

        Only a ``fresh`` start passes over one that failed while nobody looked; a task that waited for it hears of it.
        """
        task = self.errand.task.digest
        noted = self.records.unsettled(task)
        jobs = self.jobs.find({"mlapp_task": task}, {where["region"] for where in noted.values()})
        for job in jobs:
            if not is_over(job) and job.labels["mlapp_identity"] != self.identity:
                self.say(f"{job.name} runs with other arguments, settings or image: it is cancelled")
                self.jobs.cancel(job.name)
            elif state_of(job) == CANCELLING:
                self.say(f"{job.name} is being cancelled: waiting for its end")
                self.jobs.ended(job.name)
        own = [job for job in jobs if self._is_own(job) and not self.records.is_told(job)]
        if active := [job for job in own if not is_over(job)]:
            return self._only(active)
        over = [job for job in own if is_over(job)]
        succeeded = [job for job in over if state_of(job) == "JOB_STATE_SUCCEEDED"]
        return next(reversed(succeeded or ([] if fresh else over)), None)

    def create(self, region: str, attempt: Attempt, content: dict[str, Any]) -> Any:
        """Submit a job; returns the one that goes on, should another task have done the same at the same time.

        None where that cannot be seen now: `found` is to be asked again. Raises `UnclearError` where the job itself
        may or may not be there; after any other error of Google's there certainly is none.
        """
        task, number = self.errand.task.digest, attempt.number
        try:
            self.records.submitting(attempt, task, self.jobs.project, region)
        except Exception as error:
            if not could_not_look(error):
                raise
            raise UnclearError(f"cannot note in {self.records.prefix} what is submitted: {brief(error)}") from error
        try:
            job = self.jobs.create(region, content, lambda other: other.labels["mlapp_attempt"] == number)
        except UnclearError:
            raise
        except Exception:
            self._forget(task, number)
            raise
        self._name = job.name
        self.say(f"submitted {job.name}; {console(job.name)}")
        try:
            others = [other for other in self.jobs.find({"mlapp_task": task}, ()) if self._is_own(other)]
            return self._only([job, *(other for other in others if not is_over(other) and other.name != job.name)])
        except Exception as error:
            if not could_not_look(error):
                raise
            self.say(f"cannot see whether another worker did the same ({brief(error)}): looking again later")
            return None

    def has_jobs(self) -> bool:
        """Whether there may be a job of this task that no task has heard the end of; True where that is not known."""
        try:
            return bool(self.records.unsettled(self.errand.task.digest))
        except Exception as error:
            if not could_not_look(error):
                raise
            return True

    def now(self, name: str) -> Any:
        """The job as it is; raises what Vertex AI says instead."""
        self._name = name
        job = self.jobs.get(name)
        self._name = "" if is_over(job) else name
        return job

    def left(self) -> Ended | None:
        """How an attempt ended whose job is no longer there: its record, if it left one."""
        noted = self.records.unsettled(self.errand.task.digest)
        own = [number for number, where in noted.items() if where["identity"] == self.identity]
        ends = [self.records.at(folder_of(self.records.prefix, self.identity, number)) for number in reversed(own)]
        return next(filter(None, ends), None)

    def end(self, job: Any) -> Any:
        """Cancel the job and see it over."""
        over = self.jobs.ended(job.name)
        self._name = ""
        return over

    def kill(self) -> None:
        """Cancel the job, in a thread of its own: a signal handler may come in the middle of another call."""
        self.killed = True
        name, self._name = self._name, ""
        if name:
            killer = threading.Thread(target=self._kill, args=(name,), daemon=True)
            killer.start()
            killer.join(KILL_S)

    def _kill(self, name: str) -> None:
        try:
            Jobs(self.jobs.project, self.jobs.regions, self.say).cancel(name)
        except Exception as error:
            if not could_not_look(error):
                raise
            self.say(f"{name} could not be cancelled ({brief(error)}): it ends by its own time limit, or by the reaper")
        else:
            self.say(f"{name} is cancelled")

    def _forget(self, task: str, number: str) -> None:
        try:
            self.records.settled(task, number)
        except Exception as error:
            if not could_not_look(error):
                raise
            self.say(f"the note of attempt {number} stays: {brief(error)}")

    def _is_own(self, job: Any) -> bool:
        return bool(job.labels["mlapp_identity"] == self.identity and state_of(job) != CANCELLING)

    def _only(self, jobs: list[Any]) -> Any:
        """Of several active jobs of the errand the oldest goes on, the rest is cancelled."""
        first, *others = sorted(jobs, key=lambda job: (job.create_time, job.name))
        for other in others:
            self.say(f"{other.name} does the same as {first.name}: it is cancelled")
            self.jobs.cancel(other.name)
        if first.name != self._name:
            self.say(f"taking up {first.name}, submitted {first.create_time:%Y-%m-%d %H:%M} UTC; {console(first.name)}")
        self._name = first.name
        if self.killed:
            self.kill()
        return first
