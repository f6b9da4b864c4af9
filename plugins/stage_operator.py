"""The operator behind every task that does work: one stage command, at the place where it should run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowException

if TYPE_CHECKING:
    from airflow.sdk import Context
    from stage_runner import Runner


class BadInput(SystemExit):
    """A stage refused its input: the user can mend it, a retry cannot.

    A SystemExit, because that is what Airflow logs as one line, without a traceback.
    """


NO_SECOND_TRY = ExceptionRetryPolicy([RetryRule(BadInput, RetryAction.FAIL, reason="a retry cannot mend bad input")])


class StageOperator(BaseOperator):  # type: ignore[misc]
    """Run ``python -m module`` and hand on the URI of its result.json, and nothing else.

    :param module: dotted name of the stage's module
    :param arguments: value by flag, without dashes. Lists, also nested ones and the results of mapped tasks, become
        several values of one flag; True is a bare flag; None is left out.
    :param config: URI of the run's resolved config.json
    :param overrides: settings on top of it, as ``section.field=value``
    :param over: for a mapped task, the flag that differs from one task to the next: ``expand(item=…)`` gives its values
    :param runner: where the stage runs, one of `stage_runner.RUNNERS`
    """

    template_fields = ("arguments", "config", "overrides", "item")
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
        self.killed = False
        self._running: Runner | None = None

    def execute(self, context: Context) -> str:
        """Run the stage; returns the URI of its result."""
        from stage_runner import BAD_INPUT, runner_at

        mapped = {self.over: self.item} if self.over else {}
        command = command_line({**(self.arguments or {}), **mapped, "config": self.config}, self.overrides)
        self._running = runner_at(self.runner, self.tell)
        ended = self._running.run(self.module, command)
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

    def on_kill(self) -> None:
        """End the stage with all its processes."""
        self.killed = True
        if self._running:
            self._running.kill()


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
