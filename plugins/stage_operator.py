"""The operator behind every task that does work: one stage command, at the place where it should run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowException, TaskDeferred

if TYPE_CHECKING:
    from airflow.sdk import Context
    from stage_runner import Ended, Runner
    from vertex_ladder import Ladder
    from vertex_steps import Step, Waiting


class BadInput(SystemExit):
    """A stage refused its input: the user can mend it, a retry cannot.

    A SystemExit, because that is what Airflow logs as one line, without a traceback.
    """


VERTEX = "vertex"
# The shortest deferral, seconds. Where a trigger fires before the scheduler has heard that the worker is free, which a
# busy machine tells seconds later, Airflow up to 3.3.1 takes the resumed try for a failed one (apache/airflow#67287).
SHORTEST_DEFERRAL_S = 10.0
NO_SECOND_TRY = ExceptionRetryPolicy([RetryRule(BadInput, RetryAction.FAIL, reason="a retry cannot mend bad input")])


class StageOperator(BaseOperator):  # type: ignore[misc]
    """Run ``python -m module`` and hand on the URI of its result.json with its SHA-256, and nothing else.

    :param module: dotted name of the stage's module
    :param arguments: value by flag, without dashes. Lists, also nested ones and the results of mapped tasks, become
        several values of one flag; True is a bare flag; None is left out.
    :param config: URI of the run's resolved config.json
    :param overrides: settings on top of it, as ``section.field=value``
    :param over: for a mapped task, the flag that differs from one task to the next: ``expand(item=…)`` gives its values
    :param runner: where the stage runs: one of `stage_runner.RUNNERS`, or ``vertex``, a custom job of Vertex AI for all
        but the tasks that the run's ``placement.local_tasks`` names
    :param wanted: whether to run at all, ``"True"`` or ``"False"``; what is not wanted succeeds with an empty URI
    :param image: the container image of such a job, or the URI of the image step's result; else ``placement.image``
    :param deferrable: whether the worker is free for others while the job runs
    """

    may_defer: ClassVar[bool] = True  # False where Airflow has no triggerer, as under `dags_test`

    template_fields = ("arguments", "config", "overrides", "item", "runner", "image", "wanted")
    template_fields_renderers = {"arguments": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        module: str,
        arguments: Mapping[str, Any] | None = None,
        config: str | None = None,
        overrides: Sequence[str] = (),
        over: str | None = None,
        item: Any = None,
        runner: str = "local",
        image: str | None = None,
        wanted: str = "True",
        deferrable: bool = True,
        retry_policy: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(retry_policy=retry_policy or NO_SECOND_TRY, **kwargs)
        self.module = module
        self.arguments = arguments
        self.config = config
        self.overrides = overrides
        self.over = over
        self.item = item
        self.runner = runner
        self.image = image
        self.wanted = wanted
        self.deferrable = deferrable
        self.killed = False
        self.running: Runner | Ladder | None = None

    def execute(self, context: Context) -> str:
        """Run the stage; returns the reference of its result."""
        if self.wanted != "True":
            return ""
        if self.runner != VERTEX:
            return self._outcome(self._run(self.runner, {}))
        from vertex_task import wait_again

        self.running = None
        try:
            if self._is_local():
                return self._outcome(self._run("local", {}))
            return self._climb(context, lambda ladder: ladder.begin())
        except (Exception, BadInput) as error:
            # An earlier try may have left a job, and this one cannot see even the run's settings.
            if self.running or not self.may_defer or (found := wait_again(self, context, error)) is None:
                raise
        later, until = found
        raise self._deferred(later, SHORTEST_DEFERRAL_S, until)

    def resume(
        self,
        context: Context,
        waiting: Mapping[str, Any] | None = None,
        event: Any = None,
        until: str = "",
    ) -> str:
        """Go on after a deferral, ``until`` the deadline at most.

        ``airflow dags test`` gives the trigger's event in place of what to wait for.
        """
        from vertex_task import Waiting, wait_on

        self.running = None
        try:
            return self._climb(
                context, lambda ladder: ladder.look(Waiting(**waiting)) if waiting else ladder.begin(fresh=False)
            )
        except (Exception, BadInput) as error:
            # Not even the run's settings could be read: no more than a look that failed.
            if self.running or not waiting or (later := wait_on(self, waiting, until, error)) is None:
                raise
        raise self._deferred(later, SHORTEST_DEFERRAL_S, until)

    def _is_local(self) -> bool:
        from vertex_task import settings_of

        from mlapp.errors import UserError

        try:
            return self.task_id in settings_of(str(self.config)).placement.local_tasks
        except UserError as error:
            raise BadInput(f"{self.task_id}: error: {error}") from error

    def _climb(self, context: Context, first: Callable[[Ladder], Step]) -> str:
        """Follow the stage over the ladder of places to its end, or to the next deferral."""
        from vertex_task import Fallback, Waiting, placed

        from mlapp.errors import UserError

        try:
            with placed(self, context, self._command()) as ladder:
                step = first(ladder)
                while isinstance(step, Waiting) and not (self.deferrable and self.may_defer) and not self.killed:
                    self._pause(ladder.settings.poll_seconds)
                    step = ladder.look(step)
                if self.killed:
                    raise AirflowException(f"{self.task_id} was killed, and its job cancelled")
        except UserError as error:
            raise BadInput(f"{self.task_id}: error: {error}") from error
        if isinstance(step, Waiting):
            raise self._deferred(step, ladder.settings.poll_seconds, ladder.deadline.isoformat())
        return self._outcome(self._run("local", step.environ) if isinstance(step, Fallback) else step)

    def _run(self, place: str, environ: Mapping[str, str]) -> Ended:
        from stage_runner import runner_at

        from mlapp import pins

        running = runner_at(place, self.tell)
        self.running = running
        return running.run(self.module, self._command(), {**environ, **pins.handed_on(self.module)})

    def _deferred(self, waiting: Waiting, seconds: float, until: str) -> TaskDeferred:
        """Frees the worker, by a trigger of a provider: one of our own would not be where Composer's triggers run."""
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        trigger = TimeDeltaTrigger(timedelta(seconds=max(seconds, SHORTEST_DEFERRAL_S)))
        return TaskDeferred(trigger=trigger, method_name="resume", kwargs={"waiting": asdict(waiting), "until": until})

    def _pause(self, seconds: float) -> None:
        """Sleep in short bits, so that a kill is heard soon."""
        until = time.monotonic() + seconds
        while not self.killed and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _command(self) -> list[str]:
        mapped = {self.over: self.item} if self.over else {}
        return command_line({**(self.arguments or {}), **mapped, "config": self.config}, self.overrides)

    def _outcome(self, ended: Ended) -> str:
        """The URI of the result; anything else is raised."""
        from stage_runner import BAD_INPUT

        if ended.exit_code == BAD_INPUT:
            raise BadInput(ended.told)
        if ended.exit_code:
            raise AirflowException(ended.told)
        if not ended.uri:
            raise AirflowException(f"{self.module} is no stage: it wrote no result URI to its --ended-to")
        return ended.uri

    def tell(self, line: str) -> None:
        """Take a line of the stage's output, as soon as it comes: into the task's log."""
        self.log.info(line)

    def alert(self, line: str) -> None:
        """Report in the task's log what a person should see to, though the task goes on."""
        self.log.error(line)

    def on_kill(self) -> None:
        """End the stage with all its processes, or its job."""
        self.killed = True
        if self.running:
            self.running.kill()


def command_line(arguments: Mapping[str, Any], overrides: Iterable[str] = ()) -> list[str]:
    """The arguments of a stage's command; a single value is bound to its flag, so that it never reads as another."""
    command = [str(override) for override in overrides]
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            command.append(flag)
        elif isinstance(value, str | int | float) and value is not False:
            command.append(f"{flag}={value}")
        elif value is not None and value is not False:
            command += [flag, *flat(value)]
    return command


def flat(value: Any) -> list[str]:
    """All the scalars in a value, however deep in lists, as text; None is left out."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [str(value)]
    # A slice takes the results of a mapped task in one request; an iterator asks for them one by one, to past the end.
    parts = value[:] if isinstance(value, Sequence) else value
    return [text for part in parts for text in flat(part)]
