"""Ask a person before a model is promoted, where the run wants that: Airflow's own approval, with the evidence."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlapp.vetting.verdict import Verdict

UNDER_DAGS_TEST = "dag_test"  # whom `airflow dags test` names as the user: there is nobody to ask


class Approval(ApprovalOperator):  # type: ignore[misc]
    """Wait for a person to approve of a verdict to promote; its output says who answered what, or is empty.

    Whatever the answer, the run goes on: the promotion decides by the output, and the run still ends with its summary.

    :param verdict: URI of the vet stage's result
    :param wanted: whether to ask at all, ``"True"`` or ``"False"``
    :param hours: how long to wait; then it is rejected
    """

    template_fields = (*ApprovalOperator.template_fields, "verdict", "wanted", "hours")

    def __init__(self, *, verdict: str, wanted: str, hours: str, **kwargs: Any) -> None:
        # Some time to respond, not yet the one asked for: else Airflow would take the task's deadline for it.
        super().__init__(subject="Promote?", defaults=self.REJECT, response_timeout=timedelta(hours=1), **kwargs)
        self.verdict = verdict
        self.wanted = wanted
        self.hours = hours

    def execute(self, context: Context) -> Any:
        """Ask, unless there is nothing to ask or nobody to be asked."""
        if self.wanted != "True":
            return ""
        from mlapp.vetting.intact import intact

        from mlapp.registry.promoter import APPROVED, read_verdict
        from mlapp.vetting.verdict import headline

        verdict = read_verdict(intact(self.verdict))  # a person is shown what the vetting left, or nothing
        if verdict.decision != "promote":
            return ""
        if context["dag_run"].triggering_user_name == UNDER_DAGS_TEST:
            self.tell("approval: nobody can be asked under `airflow dags test`, the run goes on without")
            return f"{APPROVED}, for nobody can be asked under `airflow dags test`"
        self.subject = f"Promote? {headline(verdict).removeprefix('promote: ')}"
        self.body = evidence(verdict)
        self.response_timeout = timedelta(hours=float(self.hours))
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Who answered what; `ApprovalOperator` would skip the promotion, and with it the run's summary."""
        from mlapp.registry.promoter import APPROVED

        answer = HITLOperator.execute_complete(self, context, event)
        user = answer["responded_by_user"]
        name = user["name"] if isinstance(user, dict) else getattr(user, "name", user)
        told = APPROVED if answer["chosen_options"] == [self.APPROVE] else "rejected"
        self.tell(line := f"{told} by {name}" if name else f"{told}: nobody answered within {self.hours} h")
        return line

    def tell(self, line: str) -> None:
        """Write a line into the task's log."""
        logging.getLogger("airflow.task.operators.stage_operator.StageOperator").info("%s", line)


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
