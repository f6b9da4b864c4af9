"""One stage on its way over the ladder of places: a job at the first that has room, never two, and none left behind."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from stage_runner import Ended
from vertex_errors import explain, image_trouble, short_of
from vertex_jobs import PENDING, RUNNING, Jobs, ambiguous, brief, is_over
from vertex_prices import cost, estimate
from vertex_spec import ENDED, ENDED_WORKER, PLACED, Attempt, Errand, custom_job, for_stage, hop, place_name

from mlapp import storage
from mlapp.errors import UserError
from mlapp.schema import Config
from mlapp.schema_cloud import Place
from mlapp.stage import HOPS

KILL_S = 4.0  # Airflow ends a worker 5 s after it told it to


@dataclass(frozen=True)
class Waiting:
    """A job to be looked at again: its resource name, the state it was seen in last, how often it lost its machine."""

    job: str
    seen: str = ""
    lost: int = 0


@dataclass(frozen=True)
class Fallback:
    """No place has room but the worker itself; what was tried before it."""

    hops: tuple[dict[str, str], ...]

    @property
    def environ(self) -> dict[str, str]:
        """What tells the stage how it came there."""
        return {HOPS: json.dumps([*self.hops, hop("local", "ran")], ensure_ascii=False)}


Step = Waiting | Ended | Fallback


class Ladder:
    """What happens to an errand, step by step; between two steps it lives in its job's labels alone."""

    def __init__(self, errand: Errand, config: Config, deadline: datetime, say: Callable[[str], object]) -> None:
        self.errand = errand
        self.config = config
        self.settings = config.placement
        self.deadline = deadline
        self.say = say
        self.prefix = f"{config.storage.models.rstrip('/')}/jobs"
        self.identity = errand.identity
        self.places = [for_stage(place, errand.module) for place in self.settings.places]
        self.killed = False
        self._job = ""
        self._check()
        regions = [place.region for place in self.places if isinstance(place, Place)]
        self.jobs = Jobs(config.cloud.project, regions, say)

    def begin(self, *, fresh: bool = True) -> Step:
        """Take up the errand's own job if there is one, else submit one.

        Only a ``fresh`` begin passes over jobs that failed while nobody looked; a task that waited for one hears of it.
        """
        found = self.jobs.find({"mlapp_task": self.errand.task.digest})
        for job in found:
            if not is_over(job) and job.labels["mlapp_identity"] != self.identity:
                self.say(f"{job.name} runs with other arguments, settings or image: it is cancelled")
                self.jobs.cancel(job.name)
        own = [job for job in found if job.labels["mlapp_identity"] == self.identity and not self._told(job)]
        if active := [job for job in own if not is_over(job)]:
            return self._only(active)
        for job in reversed(own):
            if not fresh or job.state.name == "JOB_STATE_SUCCEEDED":
                self.say(f"{job.name} ended while nobody looked: taking up its result")
                return self._over(job)
        return self._submit(0, 0, ())

    def look(self, waiting: Waiting) -> Step:
        """See how the job does; returns what is to be waited for next, or how the stage ended."""
        self._job = waiting.job
        try:
            job = self.jobs.get(waiting.job)
        except ambiguous() as error:
            self.say(f"Vertex AI does not say how the job is ({brief(error)}): looking again later")
            return waiting
        state = job.state.name
        if state != waiting.seen:
            self.say(f"{job.display_name}: {state.removeprefix('JOB_STATE_').lower()}")
        if is_over(job):
            return self._over(job)
        attempt = Attempt.of(job)
        place = self._place(attempt)
        if datetime.now(UTC) >= self.deadline:
            return self._overdue(job)
        lost = waiting.lost + (waiting.seen == RUNNING and state in PENDING)
        if attempt.preempted + lost > place.preemptions and lost:
            return self._leave(job, f"its machine was taken away {attempt.preempted + lost} times")
        since = job.update_time if job.start_time else job.create_time
        waited = (datetime.now(UTC) - since).total_seconds() / 60
        if state in PENDING and waited > place.max_wait_minutes:
            return self._leave(job, f"no machine within {place.max_wait_minutes:g} minutes")
        return Waiting(waiting.job, state, lost)

    def kill(self) -> None:
        """Cancel the job, in a thread of its own: a signal handler may come in the middle of another call."""
        self.killed = True
        if self._job:
            killer = threading.Thread(target=self._kill, args=(self._job,), daemon=True)
            killer.start()
            killer.join(KILL_S)

    def _kill(self, name: str) -> None:
        Jobs(self.jobs.project, self.jobs.regions, self.say).cancel(name)
        self.say(f"{name} is cancelled")

    def _submit(self, rung: int, preempted: int, hops: tuple[dict[str, str], ...]) -> Step:
        from google.api_core.exceptions import ResourceExhausted

        for step in range(rung, len(self.places)):
            place = self.places[step]
            if isinstance(place, str):
                return Fallback(hops)
            try:
                return self._create(place, step, preempted if step == rung else 0, hops)
            except ResourceExhausted as error:
                hops = self._hopped(hops, place, f"no quota: {brief(error)}")
        told = "; ".join(f"{tried['place']}: {tried['outcome']}" for tried in hops)
        raise NoRoomError(f"no place has room for {self.errand.task.name}: {told}")

    def _create(self, place: Place, rung: int, preempted: int, hops: tuple[dict[str, str], ...]) -> Step:
        limit = self.deadline - datetime.now(UTC)
        if limit.total_seconds() <= 0:
            raise self._too_late()
        self.say(f"{place_name(place)}: {estimate(place, self.settings, limit.total_seconds() / 3600)}")
        number = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        attempt = Attempt(self.identity, number, rung, preempted, (*hops, hop(place, "ran")))
        content = custom_job(
            self.errand,
            attempt,
            place,
            self.settings,
            prefix=self.prefix,
            project=self.jobs.project,
            limit=limit,
        )
        try:
            job = self.jobs.create(place.region, content, lambda other: other.labels["mlapp_attempt"] == number)
        except Exception as error:
            told = explain(error, self.jobs.project, place, self.errand.image, self.settings.service_account)
            raise told or error from error
        self._job = job.name
        self.say(f"submitted {job.name} to {place_name(place)}; {console(job.name)}")
        others = self.jobs.find({"mlapp_task": self.errand.task.digest, "mlapp_identity": self.identity})
        return self._only([job, *(other for other in others if not is_over(other) and other.name != job.name)])

    def _only(self, jobs: list[Any]) -> Waiting:
        """Of several active jobs of the errand the oldest goes on, the rest is cancelled."""
        first, *others = sorted(jobs, key=lambda job: (job.create_time, job.name))
        for other in others:
            self.say(f"{other.name} does the same as {first.name}: it is cancelled")
            self.jobs.cancel(other.name)
        if first.name != self._job:
            self.say(f"taking up {first.name}, submitted {first.create_time:%Y-%m-%d %H:%M} UTC; {console(first.name)}")
        self._job = first.name
        if self.killed:
            self.kill()
        return Waiting(first.name)

    def _over(self, job: Any) -> Step:
        """What follows from a job's end."""
        attempt, state = Attempt.of(job), job.state.name
        place = self._place(attempt)
        record = self._record(attempt)
        if state == "JOB_STATE_SUCCEEDED":
            self._tell(job, attempt, "ran")
            if record is None:
                return Ended(1, "", f"{job.name} succeeded, but is no stage: it left no {ENDED}")
            return record
        if state == "JOB_STATE_EXPIRED":
            return self._overdue(job)
        if state == "JOB_STATE_CANCELLED":
            self._tell(job, attempt, "cancelled")
            raise UserError(f"{job.name} was cancelled from outside: clear the task to start it again")
        if short_of(job):
            taken = place.spot and job.start_time
            reason = "its machine was taken away" if taken else "no machine to be had"
            again = bool(taken) and attempt.preempted < place.preemptions
            return self._next(job, f"{reason}: {brief(job.error)}", again=again)
        message = brief(job.error)
        self._tell(job, attempt, record.reason if record else message)
        if record:
            return replace(record, reason=f"{record.reason} ({console(job.name)})") if record.exit_code != 2 else record
        if command := image_trouble(message, self.errand.image):
            raise UserError(f"Vertex AI cannot run the image: {message}: {command}")
        return Ended(1, "", f"{message or 'Vertex AI does not say why'} ({console(job.name)})")

    def _leave(self, job: Any, reason: str) -> Step:
        """Give a place up: its job is seen cancelled before there is another one."""
        over = self.jobs.ended(job.name, self.settings.poll_seconds)
        if over.state.name != "JOB_STATE_CANCELLED":
            return self._over(over)
        return self._next(over, reason, again=False)

    def _next(self, job: Any, reason: str, *, again: bool) -> Step:
        attempt = Attempt.of(job)
        place = self._place(attempt)
        self._tell(job, attempt, reason)
        hops = self._hopped(attempt.hops[:-1], place, reason)
        return self._submit(attempt.rung + (not again), attempt.preempted + 1 if again else 0, hops)

    def _hopped(self, hops: tuple[dict[str, str], ...], place: Place, reason: str) -> tuple[dict[str, str], ...]:
        self.say(f"{place_name(place)}: {reason}")
        return (*hops, hop(place, reason))

    def _overdue(self, job: Any) -> Step:
        over = job if is_over(job) else self.jobs.ended(job.name, self.settings.poll_seconds)
        if over.state.name == "JOB_STATE_SUCCEEDED":
            return self._over(over)
        self._tell(over, Attempt.of(over), "past its deadline")
        raise self._too_late()

    def _too_late(self) -> UserError:
        return UserError(
            f"{self.errand.task.name} ran past its deadline ({self.deadline:%Y-%m-%d %H:%M} UTC) and was ended: "
            f"allow more than placement.deadline_hours={self.settings.deadline_hours:g} (and than the task's own limit)"
        )

    def _place(self, attempt: Attempt) -> Place:
        place = self.places[attempt.rung]
        assert isinstance(place, Place)
        return place

    def _record(self, attempt: Attempt) -> Ended | None:
        """How the stage itself said that it ended, the chief before the others."""
        for name in (ENDED, ENDED_WORKER):
            path = storage.at(f"{attempt.folder(self.prefix)}/{name}")
            if path.exists():
                return Ended(**json.loads(path.read_text(encoding="utf-8")))
        return None

    def _told(self, job: Any) -> bool:
        """Whether a task has heard of this job's end: its result is not handed out twice."""
        return bool(is_over(job) and storage.at(f"{Attempt.of(job).folder(self.prefix)}/{PLACED}").exists())

    def _tell(self, job: Any, attempt: Attempt, outcome: str) -> None:
        """Keep what became of a job and what it cost, beside its end: from now on it has been told."""
        place = self._place(attempt)
        spent = cost(job, place, self.settings)
        if spent is not None:
            self.say(f"{place_name(place)}: cost {spent:.2f} {self.settings.currency} by the listed prices")
        content = {
            "task": self.errand.task.name,
            "job": job.name,
            "place": place_name(place),
            "outcome": outcome,
            "hops": [*attempt.hops[:-1], hop(place, outcome)],
            "started": job.start_time.isoformat() if job.start_time else None,
            "ended": job.end_time.isoformat() if job.end_time else None,
            "cost": spent,
            "currency": self.settings.currency,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        storage.write_text(storage.at(self.errand.config).parent / "placed" / f"{attempt.number}.json", text)
        storage.write_text(storage.at(f"{attempt.folder(self.prefix)}/{PLACED}"), text)

    def _check(self) -> None:
        if not self.places:
            raise UserError(
                "placement.runner is vertex, but placement.places is empty: name places, or take a deployment that "
                "does, as in MLAPP_DEPLOYMENT=vertex_cpu"
            )
        for area, uri in self.config.storage.model_dump().items():
            if storage.is_local(storage.at(uri)):
                raise UserError(
                    f"placement.runner is vertex, but storage.{area} is {uri}, on this machine: set storage.{area} to "
                    "a gs:// URI (gcloud storage buckets create gs://NAME makes a bucket)"
                )


class NoRoomError(RuntimeError):
    """The ladder has been climbed to its end: every place in one line, with why it would not do."""


def console(name: str) -> str:
    """Where a person sees a job and its log."""
    _, project, _, region, _, job = name.split("/")
    return f"https://console.cloud.google.com/vertex-ai/locations/{region}/training/{job}?project={project}"
