"""An errand has one job on Vertex AI: found again after whatever happened, never doubled, ended with its task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vertex_errand import Errand
from vertex_jobs import CANCELLING, Jobs, brief, console, is_over, transient
from vertex_records import Records

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
        jobs = self.jobs.find({"mlapp_task": self.errand.task.digest})
        for job in jobs:
            if not is_over(job) and job.labels["mlapp_identity"] != self.identity:
                self.say(f"{job.name} runs with other arguments, settings or image: it is cancelled")
                self.jobs.cancel(job.name)
            elif job.state.name == CANCELLING:
                self.say(f"{job.name} is being cancelled: waiting for its end")
                self.jobs.ended(job.name)
        own = [job for job in jobs if self._is_own(job) and not self.records.is_told(job)]
        if active := [job for job in own if not is_over(job)]:
            return self._only(active)
        over = [job for job in own if is_over(job) and (not fresh or job.state.name == "JOB_STATE_SUCCEEDED")]
        return over[-1] if over else None

    def create(self, region: str, content: dict[str, Any]) -> Any:
        """Submit a job; returns the one that goes on, should another task have done the same at the same time."""
        number = content["labels"]["mlapp_attempt"]
        job = self.jobs.create(region, content, lambda other: other.labels["mlapp_attempt"] == number)
        self._name = job.name
        self.say(f"submitted {job.name}; {console(job.name)}")
        others = [other for other in self.jobs.find({"mlapp_task": self.errand.task.digest}) if self._is_own(other)]
        return self._only([job, *(other for other in others if not is_over(other) and other.name != job.name)])

    def now(self, name: str) -> Any:
        """The job as it is; None where Vertex AI does not say."""
        self._name = name
        try:
            job = self.jobs.get(name)
        except transient() as error:
            self.say(f"Vertex AI does not say how the job is ({brief(error)}): looking again later")
            return None
        self._name = "" if is_over(job) else name
        return job

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
        Jobs(self.jobs.project, self.jobs.regions, self.say).cancel(name)
        self.say(f"{name} is cancelled")

    def _is_own(self, job: Any) -> bool:
        return bool(job.labels["mlapp_identity"] == self.identity and job.state.name != CANCELLING)

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
