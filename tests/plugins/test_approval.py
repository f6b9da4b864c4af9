"""Who is asked before a promotion, with what evidence, and what comes of the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput
from approval import UNDER_DAGS_TEST, Approval, evidence
from registry import chain
from stage_operator import BadInput
from training_assets import DATA

from mlapp.registry import promoter
from mlapp.registry.moves import rollback
from mlapp.result import StageResult


@pytest.fixture
def vetted(tmp_path: Any, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any) -> chain.Chain:
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), **floors)
    return chain.vet(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Airflow was told to ask."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **given: told.update(given)
    )
    return told


def task(vetted: chain.Chain, wanted: str = "True", **promotion: Any) -> Approval:
    registry = Path(vetted.vetted.config["registry"])
    settings = {
        "storage": {"registry": str(registry)},
        "promotion": {"name": chain.NAME, "approval": True, "approval_hours": 12, **promotion},
    }
    config = registry.parent / "config.json"
    config.write_text(json.dumps(settings))
    return Approval(task_id="approve", config=str(config), verdict=vetted.vetted.uri, wanted=wanted, hours="12")


def run(user: str | None = "Ada", kind: str = "manual") -> Any:
    return SimpleNamespace(triggering_user_name=user, run_type=kind)


def context(user: str | None = "Ada", kind: str = "manual", announced_by: Sequence[Any] = ()) -> Any:
    events = {DATA: [SimpleNamespace(source_dag_run=each) for each in announced_by]}
    return {
        "dag_run": run(user, kind),
        "triggering_asset_events": events,
        "task_instance": SimpleNamespace(id="1"),
    }


def answer(option: str, user: Any) -> dict[str, Any]:
    return {"chosen_options": [option], "params_input": {}, "responded_at": None, "responded_by_user": user}


def test_a_verdict_to_promote_is_put_to_a_person_with_every_gate(vetted: chain.Chain, asked: dict[str, Any]) -> None:
    with pytest.raises(TaskAwaitingInput) as waiting:
        task(vetted).execute(context())
    assert waiting.value.timeout.total_seconds() == 12 * 3600
    assert asked["subject"].startswith("Promote? 90.00 % on 2,000 test images")
    assert (asked["options"], asked["defaults"]) == (["Approve", "Reject"], ["Reject"])
    assert "Against the champion +10.00 points" in asked["body"]
    assert all(f"| {gate.name}" in asked["body"] for gate in vetted.verdict.gates)


@pytest.mark.parametrize("reason", ["not wanted", "nothing to promote", "dags test"])
def test_nobody_is_asked_in_vain(
    vetted: chain.Chain,
    asked: dict[str, Any],
    reason: str,
    tmp_path: Any,
    planted_data: Any,
    planted_teacher: Any,
    planted_student: Any,
) -> None:
    if reason == "nothing to promote":
        vetted = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), accuracy=0.99)
    wanted = "False" if reason == "not wanted" else "True"
    answer = task(vetted, wanted=wanted).execute(context(UNDER_DAGS_TEST if reason == "dags test" else "Ada"))
    assert answer.startswith("nobody can be asked under" if reason == "dags test" else "")
    assert asked == {}


@pytest.mark.parametrize("unattended", [True, False])
def test_where_nobody_can_be_asked_nothing_is_promoted_unless_a_setting_says_so(
    vetted: chain.Chain, tmp_path: Any, planted_data: StageResult, *, unattended: bool
) -> None:
    answer = task(vetted, unattended=unattended).execute(context(UNDER_DAGS_TEST))
    config = chain.promote_config(tmp_path, planted_data, vetted, answer=answer, approval=True)
    headline = promoter.run(config, tmp_path / "promote").headline
    assert headline.startswith("promoted" if unattended else "hold (nobody can be asked under `airflow dags test`")


def test_a_model_that_is_champion_already_is_not_put_up_again(
    vetted: chain.Chain, asked: dict[str, Any], tmp_path: Any, planted_data: StageResult
) -> None:
    """Given a verdict that was answered before, when it comes once more, then nobody is asked and nothing is held."""
    config = chain.promote_config(tmp_path, planted_data, vetted, answer="approved by Ada", approval=True)
    promoter.run(config, tmp_path / "promote")
    assert task(vetted).execute(context()) == ""
    again = chain.promote_config(tmp_path, planted_data, vetted, approval=True)
    assert promoter.run(again, tmp_path / "again").headline.startswith(promoter.ALREADY)
    assert asked == {}


def test_a_model_that_was_rolled_back_is_not_put_up_again(
    vetted: chain.Chain, asked: dict[str, Any], tmp_path: Any, planted_data: StageResult
) -> None:
    config = chain.promote_config(tmp_path, planted_data, vetted, answer="approved by Ada", approval=True)
    promoter.run(config, tmp_path / "promote")
    rollback(str(tmp_path / "registry"), chain.NAME)
    assert task(vetted).execute(context()) == ""
    again = chain.promote_config(tmp_path, planted_data, vetted, approval=True)
    assert "was promoted before and rolled back" in promoter.run(again, tmp_path / "again").headline
    assert asked == {}


def test_a_verdict_on_another_champion_is_refused_before_anyone_is_asked(
    vetted: chain.Chain,
    asked: dict[str, Any],
    tmp_path: Any,
    planted_data: Any,
    planted_teacher: Any,
    planted_student: Any,
) -> None:
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    chain.run(tmp_path, planted_data, planted_teacher, planted_student(0), **floors)
    with pytest.raises(BadInput, match="the champion changed since the vetting"):
        task(vetted).execute(context())
    assert asked == {}


ADA = {"id": "1", "name": "Ada"}


@pytest.mark.parametrize(
    ("starter", "user", "told"),
    [
        ("Ada", ADA, "rejected: Ada approved, but started this run"),
        ("ada", ADA, "rejected: Ada approved, but started this run"),
        ("1", ADA, "rejected: Ada approved, but started this run"),
        ("Bob", ADA, "approved by Ada"),
        (None, ADA, "rejected: Ada approved, but nobody knows who started this run"),
        ("Bob", None, "rejected: nobody answered"),
    ],
)
def test_who_started_a_run_may_not_approve_it_where_that_is_set(
    vetted: chain.Chain, starter: str | None, user: Any, told: str
) -> None:
    event = answer("Approve", user) | {"responded_at": SimpleNamespace(isoformat=lambda: "2026-08-26T12:00:00+00:00")}
    approval = task(vetted, starter_may_approve=False)
    assert approval.execute_complete(context(starter), event).startswith(told)
    if user:
        assert task(vetted).execute_complete(context(starter), event) == "approved by Ada"


@pytest.mark.parametrize(
    ("run_type", "announced_by", "told"),
    [
        ("scheduled", [], "approved by Ada"),
        ("asset_triggered", [run(None, "scheduled")], "approved by Ada"),
        ("asset_triggered", [run("Bob")], "approved by Ada"),
        ("asset_triggered", [run("Ada")], "rejected: Ada approved, but started this run"),
        ("asset_triggered", [run("Bob"), run("ada", "backfill")], "rejected: Ada approved, but started this run"),
        ("asset_triggered", [], "rejected: Ada approved, but nobody knows"),
        ("asset_triggered", [None], "rejected: Ada approved, but nobody knows"),  # an event made by hand
        ("asset_triggered", [run("Bob"), None], "rejected: Ada approved, but nobody knows"),
        ("asset_triggered", [run(None, "asset_triggered")], "rejected: Ada approved, but nobody knows"),
        ("operator_triggered", [], "rejected: Ada approved, but nobody knows"),
        ("manual", [run(None, "scheduled")], "rejected: Ada approved, but nobody knows"),
    ],
)
def test_started_by_schedule_or_data(vetted: chain.Chain, run_type: str, announced_by: list[Any], told: str) -> None:
    """A run that a schedule started may be approved by anyone; one that data started, not by who made the data."""
    event = answer("Approve", ADA) | {"responded_at": SimpleNamespace(isoformat=lambda: "2026-08-26T12:00:00+00:00")}
    approval = task(vetted, starter_may_approve=False)
    assert approval.execute_complete(context(None, run_type, announced_by), event).startswith(told)


def test_a_run_that_nobody_started_is_not_put_to_anyone_where_starter_and_approver_must_differ(
    vetted: chain.Chain, asked: dict[str, Any]
) -> None:
    told = task(vetted, starter_may_approve=False).execute(context(None))
    assert told.startswith("rejected: nobody knows who started this run")
    assert asked == {}


def test_a_configuration_that_was_changed_against_the_pins_asks_nobody(
    vetted: chain.Chain, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a config.json that someone edited after it was configured."""
    monkeypatch.setenv("MLAPP_PINNED", "promotion.unattended")
    with pytest.raises(BadInput, match=r"the operator has pinned .*promotion\.unattended"):
        task(vetted, unattended=True).execute(context(UNDER_DAGS_TEST))
    assert asked == {}


@pytest.mark.parametrize(
    ("option", "user", "told"),
    [
        ("Approve", {"id": "1", "name": "Ada"}, "approved by Ada"),
        ("Reject", {"id": "1", "name": "Ada"}, "rejected by Ada"),
        ("Reject", None, "rejected: nobody answered within 12 h"),
    ],
)
def test_the_answer_decides_and_the_history_tells_it(
    vetted: chain.Chain, tmp_path: Any, planted_data: StageResult, option: str, user: Any, told: str
) -> None:
    event = answer(option, user) | {"responded_at": SimpleNamespace(isoformat=lambda: "2026-08-26T12:00:00+00:00")}
    assert task(vetted).execute_complete(context(), event) == told
    result = promoter.run(chain.promote_config(tmp_path, planted_data, vetted, answer=told), tmp_path / "promote")
    moves = promoter.Pointer(str(tmp_path / "registry"), "fashion_mnist").history()
    if option == "Approve":
        assert result.headline.startswith("promoted")
        assert moves[-1]["why"].endswith("; approved by Ada")
    else:
        assert result.headline.startswith(f"hold ({told}): fashion_mnist/{moves[-1]['champion']} stays the champion")
        assert len(moves) == 1


def test_without_an_answer_nothing_is_promoted_where_one_is_asked_for(
    vetted: chain.Chain, tmp_path: Any, planted_data: StageResult
) -> None:
    """Given somebody who marked the question as answered by hand, or the command without an answer."""
    config = chain.promote_config(tmp_path, planted_data, vetted, approval=True)
    assert promoter.run(config, tmp_path / "promote").headline.startswith("hold (nobody was asked")
    assert len(promoter.Pointer(str(tmp_path / "registry"), "fashion_mnist").history()) == 1


def test_a_verdict_that_was_altered_is_not_put_to_anybody(vetted: chain.Chain, asked: dict[str, Any]) -> None:
    path = vetted.vetted.local("verdict")
    path.write_text(path.read_text().replace('"value": 0.9', '"value": 0.99'))
    with pytest.raises(BadInput, match="the vet result cannot be trusted, verdict was altered"):
        task(vetted).execute(context())
    assert asked == {}


def test_a_class_name_is_no_markup_of_the_question(vetted: chain.Chain) -> None:
    gate = vetted.verdict.gates[1].model_copy(update={"detail": "<b>a|b</b>\x1b[2K"})
    body = evidence(vetted.verdict.model_copy(update={"gates": [gate]}))
    assert r"(\<b\>a\|b\</b\>\\x1b\[2K)" in body
