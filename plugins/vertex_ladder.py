"""One stage on its way over the ladder of places: the first that has room runs it, and each that had none is told."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from stage_runner import BAD_INPUT, Ended
from vertex_errand import Attempt, Errand
from vertex_errors import explain, image_trouble, short_of
from vertex_jobs import PENDING, RUNNING, Jobs, brief, console, is_over
from vertex_one import OneJob
from vertex_prices import estimate
from vertex_records import Records
from vertex_spec import ENDED, custom_job, for_stage, hop, place_name

from mlapp.errors import UserError
from mlapp.schema import Config
from mlapp.schema_cloud import Place
from mlapp.stage import HOPS

Hops = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Waiting:
    """A job to be looked at again: its resource name, the state it was seen in last, how often it lost its machine."""

    job: str
    seen: str = ""
    lost: int = 0


@dataclass(frozen=True)
class Fallback:
    """No place has room but the worker itself; what was tried before it."""

    hops: Hops

    @property
    def environ(self) -> dict[str, str]:
        """What tells the stage how it came there."""
        return {HOPS: json.dumps([*self.hops, hop("local", "ran")], ensure_ascii=False)}


Step = Waiting | Ended | Fallback


class NoRoomError(RuntimeError):
    """The ladder has been climbed to its end: every place in one line, with why it would not do."""


class Ladder:
    """What happens to an errand, step by step; what is known between two steps stands in its job's labels."""

    def __init__(self, errand: Errand, config: Config, deadline: datetime, say: Callable[[str], object]) -> None:
        self.errand = errand
        self.settings = config.placement
        self.deadline = deadline
        self.say = say
        self.places = [for_stage(place, errand.module) for place in self.settings.places]
        self.records = Records(config, errand.config, errand.task.name, say)
        regions = [place.region for place in self.places if isinstance(place, Place)]
        self.jobs = Jobs(config.cloud.project, regions, say)
        self.one = OneJob(errand, self.jobs, self.records, say)

    def begin(self, *, fresh: bool = True) -> Step:
        """Take up the errand's own job if there is one, else submit one; ``fresh`` as in `OneJob.found`."""
        job = self.one.found(fresh=fresh)
        if job is None:
            return self._submit(0, 0, ())
        return self._over(job) if is_over(job) else self.look(Waiting(job.name))

    def look(self, waiting: Waiting) -> Step:
        """See how the job does; returns what is to be waited for next, or how the stage ended."""
        job = self.one.now(waiting.job)
        if job is None:
            return waiting
        state = job.state.name
        if state != waiting.seen:
            self.say(f"{job.display_name}: {state.removeprefix('JOB_STATE_').lower()}")
        if is_over(job):
            return self._over(job)
        if datetime.now(UTC) >= self.deadline:
            return self._overdue(job)
        attempt, place = self._where(job)
        lost = waiting.lost + (place.spot and waiting.seen == RUNNING and state in PENDING)
        if lost and attempt.preempted + lost > place.preemptions:
            return self._leave(job, f"its machine was taken away {attempt.preempted + lost} times")
        since = job.update_time if job.start_time else job.create_time
        waited = (datetime.now(UTC) - since).total_seconds() / 60
        if state in PENDING and waited > place.max_wait_minutes:
            return self._leave(job, f"no machine within {place.max_wait_minutes:g} minutes")
        return Waiting(waiting.job, state, lost)

    def kill(self) -> None:
        """Cancel the job, if any; from a signal handler too."""
        self.one.kill()

    def _submit(self, rung: int, preempted: int, hops: Hops) -> Step:
        """A job at the first place from ``rung`` on that takes it; ``preempted`` counts what was lost at that rung."""
        from google.api_core.exceptions import ResourceExhausted

        for step, place in enumerate(self.places[rung:], rung):
            if isinstance(place, str):
                return Fallback(hops)
            try:
                return self._create(place, step, preempted if step == rung else 0, hops)
            except ResourceExhausted as error:
                hops = self._hopped(hops, place, f"no quota: {brief(error)}")
        told = "; ".join(f"{tried['place']}: {tried['outcome']}" for tried in hops)
        raise NoRoomError(f"no place has room for {self.errand.task.name}: {told}")

    def _create(self, place: Place, rung: int, preempted: int, hops: Hops) -> Waiting:
        limit = self.deadline - datetime.now(UTC)
        if limit.total_seconds() <= 0:
            raise self._too_late()
        self.say(f"{place_name(place)}: {estimate(place, self.settings, limit.total_seconds() / 3600)}")
        number = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"  # in the order of time, and unique
        attempt = Attempt(self.one.identity, number, rung, preempted, (*hops, hop(place, "ran")))
        where = {"prefix": self.records.prefix, "project": self.jobs.project}
        content = custom_job(self.errand, attempt, place, self.settings, limit=limit, **where)
        try:
            return Waiting(self.one.create(place.region, content).name)
        except Exception as error:
            account = self.settings.account_of(self.errand.task.name)
            told = explain(error, self.jobs.project, place, self.errand.image, account)
            raise told or error from error

    def _over(self, job: Any) -> Step:
        """What follows from a job's end."""
        attempt, place = self._where(job)
        state, message, record = job.state.name, brief(job.error), self.records.of(attempt)
        if state == "JOB_STATE_EXPIRED":
            return self._overdue(job)
        if state == "JOB_STATE_CANCELLED":
            self.records.tell(job, place, "cancelled from outside")
            raise UserError(f"{job.name} was cancelled from outside: clear the task to start it again")
        if state == "JOB_STATE_FAILED" and short_of(job):
            taken = bool(place.spot and job.start_time)
            reason = f"{'its machine was taken away' if taken else 'no machine to be had'}: {message}"
            return self._next(job, reason, again=taken and attempt.preempted < place.preemptions)
        if state == "JOB_STATE_SUCCEEDED" and record is None:
            record = Ended(1, "", f"the job succeeded, but is no stage: it left no {ENDED}")
        ended = record or Ended(1, "", message or "Vertex AI does not say why")
        self.records.tell(job, place, "ran" if ended.uri else f"failed: {ended.reason}")
        if record is None and (command := image_trouble(message, self.errand.image)):
            raise UserError(f"Vertex AI cannot run the image: {message}: {command}")
        if ended.exit_code in (0, BAD_INPUT):
            return ended
        return replace(ended, reason=f"{ended.reason} ({console(job.name)})")

    def _leave(self, job: Any, reason: str) -> Step:
        """Give a place up: its job is seen cancelled before there is another one."""
        over = self.one.end(job)
        return self._next(over, reason, again=False) if over.state.name == "JOB_STATE_CANCELLED" else self._over(over)

    def _next(self, job: Any, reason: str, *, again: bool) -> Step:
        """Go on from a place that did not do: to the next one, or ``again`` to the same."""
        attempt, place = self._where(job)
        self.records.tell(job, place, reason)
        hops = self._hopped(attempt.hops[:-1], place, reason)
        return self._submit(attempt.rung + (not again), attempt.preempted + 1 if again else 0, hops)

    def _hopped(self, hops: Hops, place: Place, reason: str) -> Hops:
        self.say(f"{place_name(place)}: {reason}")
        return (*hops, hop(place, reason))

    def _overdue(self, job: Any) -> Step:
        over = job if is_over(job) else self.one.end(job)
        if over.state.name == "JOB_STATE_SUCCEEDED":
            return self._over(over)
        self.records.tell(over, self._where(over)[1], "ran past its deadline")
        raise self._too_late()

    def _too_late(self) -> UserError:
        return UserError(
            f"{self.errand.task.name} ran past its deadline ({self.deadline:%Y-%m-%d %H:%M} UTC) and was ended: "
            f"allow more than placement.deadline_hours={self.settings.deadline_hours:g} (and than the task's own limit)"
        )

    def _where(self, job: Any) -> tuple[Attempt, Place]:
        attempt = Attempt.of(job)
        place = self.places[attempt.rung]
        assert isinstance(place, Place)
        return attempt, place
