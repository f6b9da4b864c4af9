"""Ask a person before a model is promoted, where the run wants that: Airflow's own approval, with the evidence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from stage_operator import BadInput
from training_assets import DATA

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlapp.schema import Config
    from mlapp.vetting.verdict import Verdict

SEPARATE = "and promotion.starter_may_approve is false"
UNDER_DAGS_TEST = "dag_test"  # whom `airflow dags test` names as the user: there is nobody to ask


class Approval(ApprovalOperator):  # type: ignore[misc]
    """Wait for a person to approve of a verdict to promote; its output says who answered what, or is empty.

    Whatever the answer, the run goes on: the promotion decides by the output, and the run still ends with its summary.

    :param config: URI of the run's resolved config.json
    :param verdict: URI of the vet stage's result
    :param wanted: whether to ask at all, ``"True"`` or ``"False"``
    :param hours: how long to wait; then it is rejected
    """

    template_fields = (*ApprovalOperator.template_fields, "config", "verdict", "wanted", "hours")

    def __init__(self, *, config: str, verdict: str, wanted: str, hours: str, **kwargs: Any) -> None:
        # Some time to respond, not yet the one asked for: else Airflow would take the task's deadline for it.
        super().__init__(subject="Promote?", defaults=self.REJECT, response_timeout=timedelta(hours=1), **kwargs)
        self.config = config
        self.verdict = verdict
        self.wanted = wanted
        self.hours = hours

    def execute(self, context: Context) -> Any:
        """Ask, unless there is nothing to ask or nobody to be asked."""
        if self.wanted != "True":
            return ""
        from mlapp.errors import UserError
        from mlapp.vetting.verdict import headline

        try:
            settings = self._settings()
            verdict, settled = self._question(settings)
        except UserError as error:
            raise BadInput(f"{self.task_id}: error: {error}") from error
        if settled is not None:
            return settled
        if context["dag_run"].triggering_user_name == UNDER_DAGS_TEST:
            return self._unattended(settings)
        if not settings.promotion.starter_may_approve and starters(context) is None:
            self.tell(line := f"rejected: nobody knows who started this run, {SEPARATE}")
            return line
        self.subject = f"Promote? {headline(verdict).removeprefix('promote: ')}"
        self.body = evidence(verdict)
        self.response_timeout = timedelta(hours=float(self.hours))
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Who answered what; `ApprovalOperator` would skip the promotion, and with it the run's summary."""
        from mlapp.registry.promoter import APPROVED

        answer = HITLOperator.execute_complete(self, context, event)
        user = answer["responded_by_user"]
        names = [user.get(key) if isinstance(user, dict) else getattr(user, key, None) for key in ("name", "id")]
        name = names[0] or names[1] or ""
        approved = answer["chosen_options"] == [self.APPROVE]
        if not name:
            line = f"rejected: nobody answered within {self.hours} h"
        elif approved and (reason := self._own_run(context, names)):
            line = f"rejected: {name} approved, but {reason}"
        else:
            line = f"{APPROVED if approved else 'rejected'} by {name}"
        self.tell(line)
        return line

    def _settings(self) -> Config:
        from mlapp import pins

        return pins.read(self.config)

    def _question(self, settings: Config) -> tuple[Verdict, str | None]:
        """The verdict, and what to answer where no person need be asked about it."""
        from mlapp.registry.promoter import read_verdict, unneeded
        from mlapp.result import StageResult

        verdict = read_verdict(StageResult.load_verified(self.verdict))  # a person is shown what the vetting left
        if verdict.decision != "promote":
            return verdict, ""
        if reason := unneeded(verdict, settings.storage.registry, settings.model_name):
            self.tell(f"approval: nobody is asked, the challenger is settled ({reason})")
            return verdict, ""
        return verdict, None

    def _unattended(self, settings: Config) -> str:
        """The answer where nobody can be asked: no promotion, unless the settings say that none need be asked."""
        from mlapp.registry.promoter import APPROVED

        nobody = "nobody can be asked under `airflow dags test`"
        if settings.promotion.unattended:
            line = f"{APPROVED} by promotion.unattended, for {nobody}"
        else:
            line = f"{nobody}: trigger the run in Airflow, or set promotion.unattended=true"
        self.tell(f"approval: {line}")
        return line

    def _own_run(self, context: Context, names: Sequence[str | None]) -> str | None:
        """Why a person's approval does not count for this run; None where it does."""
        if self._settings().promotion.starter_may_approve:
            return None
        people = starters(context)
        if people is None:
            return f"nobody knows who started this run, {SEPARATE}"
        same = {name.casefold() for name in people} & {str(name).casefold() for name in names if name}
        return f"started this run, {SEPARATE}" if same else None

    def tell(self, line: str) -> None:
        """Write a line into the task's log."""
        logging.getLogger("airflow.task.operators.stage_operator.StageOperator").info("%s", line)


def starters(context: Context) -> list[str] | None:
    """Who started a run or, where data started it, the runs that announced them; None where that is not known.

    A schedule is nobody: a run that one started may be approved by anyone. An event made by hand names no run.
    """
    runs = [context["dag_run"]]
    if runs[0].run_type == "asset_triggered":
        runs = [event.source_dag_run for event in context["triggering_asset_events"].get(DATA) or ()]
    people = [run.triggering_user_name for run in runs if run and run.triggering_user_name]
    scheduled = [run for run in runs if run and not run.triggering_user_name and run.run_type == "scheduled"]
    return people if runs and len(people) + len(scheduled) == len(runs) else None


def evidence(verdict: Verdict) -> str:
    """What a person needs to decide, in Markdown: how it compares, and every gate."""
    from mlapp.registry.model_card import markdown, points

    challenger = verdict.challenger
    lines = [
        f"{challenger.bytes:,} bytes, {challenger.latency_us.value:.0f} µs an image; "
        f"replaces {verdict.champion_before or 'nothing'}.",
        "",
        "| gate | value | bound | |",
        "|---|---|---|---|",
        *(f"| {markdown(gate.cells[0])} | {' | '.join(gate.cells[1:])} |" for gate in verdict.gates),
    ]
    if verdict.champion and verdict.against_champion:
        gain = verdict.against_champion.difference
        lines[1:1] = [
            f"Against the champion {points(gain)} on {gain.n:,} test images, "
            f"p = {verdict.against_champion.p_value:.2g}.",
        ]
    return "\n".join(lines)
