"""One stage on its way over the ladder of places: the first that has room runs it, and each that had none is told."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from stage_runner import BAD_INPUT, Ended
from vertex_errand import Attempt, Errand
from vertex_errors import exit_status, explain, image_trouble, no_room, short_of, was_stopped
from vertex_jobs import PENDING, RUNNING, Jobs, UnclearError, console, is_over, state_of
from vertex_one import OneJob
from vertex_prices import estimate
from vertex_records import Records
from vertex_spec import ENDED, custom_job, for_stage, hop, place_name
from vertex_steps import Fallback, Hops, Onward, Step, Waiting, unseen

from mlapp.cloud_errors import brief, could_not_look, is_gone, is_not_found
from mlapp.errors import UserError
from mlapp.schema import Config
from mlapp.schema_cloud import Place


class NoRoomError(RuntimeError):
    """The ladder has been climbed to its end: every place in one line, with why it would not do."""


class Ladder:
    """What happens to an errand, step by step; what is known between two steps stands in its job's labels."""

    def __init__(
        self,
        errand: Errand,
        config: Config,
        deadline: datetime,
        say: Callable[[str], object],
        alert: Callable[[str], object] | None = None,
    ) -> None:
        self.alert = alert or say
        self.errand = errand
        self.settings = config.placement
        self.deadline = deadline
        self.say = say
        self.places = [for_stage(place, errand.module) for place in self.settings.places]
        self.records = Records(config, errand.config, errand.task.name, say)
        self.jobs = Jobs(config.cloud.project, [each.region for each in self.places if isinstance(each, Place)], say)
        self.one = OneJob(errand, self.jobs, self.records, say)

    def begin(self, *, fresh: bool = True) -> Step:
        """Take up the errand's own job if there is one, else submit one; ``fresh`` as in `OneJob.found`."""
        return self._find(Waiting("", fresh=fresh))

    def look(self, waiting: Waiting) -> Step:
        """See how the job does; returns what is to be waited for next, or how the stage ended.

        A look that fails changes nothing: there is another one later, until the deadline.
        """
        if not waiting.job:
            return self._find(waiting)
        try:
            step = self._see(waiting)
        except Exception as error:
            return self._unseen(waiting, error)
        return self._submit(step) if isinstance(step, Onward) else step

    def _find(self, waiting: Waiting) -> Step:
        try:
            job = self.one.found(fresh=waiting.fresh)
        except Exception as error:  # where nothing was submitted yet, the user hears at once what is wrong
            if not could_not_look(error) or not (waiting.onward or self.one.has_jobs()):
                raise
            return self._unseen(waiting, error)
        if job is None:
            return self._submit(Onward.of(waiting.onward) if waiting.onward else Onward())
        return self.look(Waiting(job.name))

    def _see(self, waiting: Waiting) -> Step | Onward:
        """What a job that can be seen calls for."""
        try:
            job = self.one.now(waiting.job)
        except Exception as error:
            if is_not_found(error):
                return self._absent(waiting, error)
            raise
        state = state_of(job)
        if state != waiting.seen:
            self.say(f"{job.display_name}: {state.removeprefix('JOB_STATE_').lower()}")
        if is_over(job):
            return self._over(job, waiting.leaving)
        if datetime.now(UTC) >= self.deadline:
            return self._overdue(job)
        attempt, place = self._where(job)
        lost = waiting.lost + (place.spot and waiting.seen == RUNNING and state in PENDING)
        since = job.update_time if job.start_time else job.create_time
        waited = (datetime.now(UTC) - since).total_seconds() / 60
        reason = waiting.leaving
        if lost and attempt.preempted + lost > place.preemptions:
            reason = f"its machine was taken away {attempt.preempted + lost} times"
        elif state in PENDING and waited > place.max_wait_minutes:
            reason = f"no machine within {place.max_wait_minutes:g} minutes"
        return self._leave(waiting, job, reason) if reason else Waiting(waiting.job, state, lost)

    def _unseen(self, waiting: Waiting, error: Exception) -> Waiting:
        """Wait on, as nothing is known; a bug or the deadline ends the wait."""
        if not could_not_look(error):
            raise error
        if datetime.now(UTC) >= self.deadline:
            self.kill()
            raise self._too_late() from error
        cure = explain(error, self.jobs.project)
        return unseen(waiting, error, self.settings.alert_after_minutes, str(cure or ""), self.say, self.alert)

    def _absent(self, waiting: Waiting, error: Exception) -> Step:
        """Believe that there is no such job only if it is not there for some time."""
        now = datetime.now(UTC)
        since = datetime.fromisoformat(waiting.absent) if waiting.absent else now
        if not is_gone(since, now):
            return self._unseen(replace(waiting, absent=since.isoformat()), error)
        if left := self.one.left():  # its result, or why there is none
            return left
        raise UserError(f"{waiting.job} is not there any more, somebody deleted it: clear the task to start it again")

    def kill(self) -> None:
        """Cancel the job, if any; from a signal handler too."""
        self.one.kill()

    def _submit(self, onward: Onward) -> Step:
        """A job at the first place that takes it."""
        hops = onward.hops
        for rung, place in enumerate(self.places[onward.rung :], onward.rung):
            if isinstance(place, str):
                return Fallback(hops)
            here = Onward(rung, onward.preempted if rung == onward.rung else 0, hops)
            try:
                return self._create(place, here)
            except UnclearError as error:
                cause = error.__cause__
                return self._unseen(Waiting("", onward=asdict(here)), cause if isinstance(cause, Exception) else error)
            except UserError:
                raise
            except Exception as error:
                if (reason := no_room(error)) is None:
                    raise
                hops = self._hopped(hops, place, reason)
        tried = "; ".join(f"{each['place']}: {each['outcome']}" for each in hops)
        raise NoRoomError(f"no place has room for {self.errand.task.name}: {tried}")

    def _create(self, place: Place, here: Onward) -> Waiting:
        limit = self.deadline - datetime.now(UTC)
        if limit.total_seconds() <= 0:
            raise self._too_late()
        self.say(f"{place_name(place)}: {estimate(place, self.settings, limit.total_seconds() / 3600)}")
        number = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"  # in the order of time, and unique
        attempt = Attempt(self.one.identity, number, here.rung, here.preempted, (*here.hops, hop(place, "ran")))
        where = {"prefix": self.records.prefix, "project": self.jobs.project}
        content = custom_job(self.errand, attempt, place, self.settings, limit=limit, **where)
        try:
            job = self.one.create(place.region, attempt, content)
        except UnclearError:
            raise
        except Exception as error:
            account = self.settings.account_of(self.errand.task.name)
            told = explain(error, self.jobs.project, place, self.errand.image, account)
            raise told or error from error
        return Waiting(job.name) if job else Waiting("", onward=asdict(here))

    def _over(self, job: Any, leaving: str = "") -> Step | Onward:
        """What follows from a job's end; what the stage itself said of it counts first."""
        attempt, place = self._where(job)
        state, message, record = state_of(job), brief(job.error), self.records.of(attempt)
        if record and record.exit_code == 0 and record.uri:
            self.records.tell(job, place, "ran")
            return record
        if state == "JOB_STATE_EXPIRED":
            return self._overdue(job)
        if state == "JOB_STATE_CANCELLED":
            if leaving:
                return self._next(job, leaving, again=False)
            self.records.tell(job, place, "cancelled from outside")
            raise UserError(f"{job.name} was cancelled from outside: clear the task to start it again")
        if state == "JOB_STATE_FAILED" and (lost := self._lost(job, record)):
            taken = bool(place.spot and job.start_time)
            reason = f"{'its machine was taken away' if taken else 'no machine to be had'}: {lost}"
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

    def _lost(self, job: Any, record: Ended | None) -> str | None:
        """How a failed job lost its machine, in words; None where it failed by its own doing.

        A stage that a spot machine's end stops says so in its record, or cannot say any more what its exit status says.
        """
        code = record.exit_code if record else exit_status(job)
        message = brief(job.error)
        if was_stopped(job, code) and self._where(job)[1].spot:
            return f"the stage was stopped (exit code {code}): {record.reason if record else message}"
        return message if (record is None or was_stopped(job, code)) and short_of(job) else None

    def _leave(self, waiting: Waiting, job: Any, reason: str) -> Step | Onward:
        """Give a place up: its job is seen cancelled before there is another one."""
        try:
            return self._over(self.one.end(job), reason)
        except Exception as error:
            return self._unseen(replace(waiting, leaving=reason), error)

    def _next(self, job: Any, reason: str, *, again: bool) -> Onward:
        """Go on from a place that did not do: to the next one, or ``again`` to the same."""
        attempt, place = self._where(job)
        self.records.tell(job, place, reason)
        hops = self._hopped(attempt.hops[:-1], place, reason)
        return Onward(attempt.rung + (not again), attempt.preempted + 1 if again else 0, hops)

    def _hopped(self, hops: Hops, place: Place, reason: str) -> Hops:
        self.say(f"{place_name(place)}: {reason}")
        return (*hops, hop(place, reason))

    def _overdue(self, job: Any) -> Step | Onward:
        try:
            over = job if is_over(job) else self.one.end(job)
        except Exception as error:
            if not could_not_look(error):
                raise
            self.say(f"{job.name} could not be seen cancelled ({brief(error)}): it ends by its own time limit")
            raise self._too_late() from error
        if state_of(over) == "JOB_STATE_SUCCEEDED":
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
