"""Planted challengers get the verdict they deserve, with the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chain
import numpy as np
import planted
import pytest

from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.vetting import verdict
from mlapp.vetting.corruptions import SEVERITIES


@pytest.fixture
def against_champion(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> Any:
    """Promote a champion that errs on four groups, each another class's half (80 %), then vet a challenger."""

    def against(*errors: int, **settings: object) -> verdict.Verdict:
        floors = {"accuracy": 0.5, "class_recall": 0.0}
        first = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), **floors)
        assert first.verdict.decision == "promote"
        settings = {**floors, **settings}
        return chain.vet(tmp_path, planted_data, planted_teacher, planted_student(*errors), **settings).verdict

    return against


def failed(found: verdict.Verdict) -> set[str]:
    return {gate.name for gate in found.gates if not gate.passed}


def test_the_first_model_is_promoted_when_it_meets_the_floors(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    found = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3)).verdict
    assert (found.decision, found.champion, found.champion_before) == ("promote", None, None)
    assert found.challenger.accuracy.value == 0.95
    assert found.challenger.accuracy.n == 2000
    assert found.challenger.recall[1].value == 0.5
    assert sum(map(sum, found.challenger.confusion)) == 2000
    assert (found.against_teacher.only_challenger_right, found.against_teacher.only_other_right) == (100, 100)
    assert found.against_teacher.p_value == 1.0


@pytest.mark.parametrize(
    ("settings", "gate"),
    [
        ({"accuracy": 0.96}, "accuracy"),
        ({"class_recall": 0.6}, "lowest recall of a class"),
        ({"bytes": 1000}, "file size (bytes)"),
        ({"latency_us": 0.001}, "latency (µs, one thread)"),
    ],
)
def test_a_first_model_below_a_floor_or_over_a_budget_is_rejected(
    tmp_path: Path,
    planted_data: StageResult,
    planted_teacher: StageResult,
    planted_student: Any,
    settings: dict[str, Any],
    gate: str,
) -> None:
    found = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), **settings).verdict
    assert found.decision == "reject"
    assert failed(found) == {gate}


def test_a_better_challenger_is_promoted(against_champion: Any) -> None:
    found = against_champion(0, 2)
    assert found.decision == "promote"
    assert found.against_champion.difference.value == pytest.approx(0.10)
    assert found.against_champion.difference.low > 0
    assert found.against_champion.p_value < 1e-6


def test_an_equal_challenger_is_held(against_champion: Any) -> None:
    """Given one that errs as often on other images, then the tie does not promote."""
    found = against_champion(0, 2, 4, 8, class_recall_drop=1.0)
    assert found.decision == "hold"
    assert failed(found) == {"significantly better than the champion", "no class inferior"}
    assert found.against_champion.churn.value == pytest.approx(0.10)
    assert [p < 0.01 for p in found.class_inferior_p] == [True] * 4 + [False] + [True] * 5


def test_a_worse_challenger_is_rejected(against_champion: Any) -> None:
    found = against_champion(0, 2, 4, 6, 8)
    assert found.decision == "reject"
    assert "not significantly worse than the champion" in failed(found)


def test_a_better_challenger_that_ruins_a_class_is_rejected(against_champion: Any) -> None:
    found = against_champion(18, 19)
    assert found.challenger.accuracy.value > found.champion.accuracy.value
    assert found.decision == "reject"
    assert failed(found) == {
        "most recall lost by a class",
        "no class inferior",
        "images told otherwise than by the champion",
    }
    assert next(gate for gate in found.gates if not gate.passed).detail == "class j"


def test_what_misses_a_gate_that_is_only_noted_is_promoted_and_told(against_champion: Any) -> None:
    found = against_champion(18, 19, class_recall_drop="note", class_inferior_p="note", churn="note")
    assert found.decision == "promote"
    assert "most recall lost by a class" in failed(found)


def test_what_cannot_be_measured_is_missed(
    tmp_path: Path, planted_teacher: StageResult, planted_student: Any, planted_data: StageResult
) -> None:
    """Given test images that were all trained on, then none is left to show how good the model is without those."""
    file = tmp_path / "policy.yaml"
    file.write_text("accuracy_apart: {at_least: 0.5, otherwise: reject}\n")
    settings = {"policy": str(file), "gates": {}}
    leaked = planted.data(tmp_path / "leaked", leaked=True)
    found = chain.vet(tmp_path, leaked, planted_teacher, planted_student(3), **settings).verdict
    [gate] = found.gates
    assert (found.decision, gate.value, gate.passed) == ("reject", None, False)
    assert gate.cells == ("accuracy without near-duplicates (could not be measured)", "–", ">= 0.5", "missed: reject")
    sound = chain.vet(tmp_path / "sound", planted_data, planted_teacher, planted_student(3), **settings).verdict
    assert (sound.decision, sound.gates[0].value, sound.near_duplicates.value) == ("promote", 0.95, 0)


def test_every_gate_is_told_with_its_value_and_bound(
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    planted_data: StageResult,
    planted_teacher: StageResult,
    planted_student: Any,
) -> None:
    with caplog.at_level("INFO", "mlapp"):
        found = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), accuracy=0.96).verdict
    lines = [" ".join(line.split()) for line in caplog.messages]
    assert "accuracy 0.95 >= 0.96 missed: reject" in lines
    assert "lowest recall of a class (class b) 0.5 >= 0.5 passed" in lines
    assert len([line for line in lines if line.endswith((" passed", ": reject", ": hold"))]) == len(found.gates)


def test_challenger_and_champion_are_scored_on_the_same_corrupted_images(against_champion: Any) -> None:
    found = against_champion(0, 2, 4)
    for model in (found.challenger, found.champion):
        assert {kind: len(accuracies) for kind, accuracies in model.corrupted.items()} == dict.fromkeys(SEVERITIES, 3)
        assert model.corrupted_accuracy.n == 100
        assert 0 < model.corrupted_accuracy.value < model.accuracy.value
    assert found.teacher.corrupted is None


def test_an_unchanged_rerun_after_the_promotion_is_skipped(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    first = chain.run(tmp_path, planted_data, planted_teacher, planted_student(3))
    again = chain.run(tmp_path, planted_data, planted_teacher, planted_student(3))
    assert again.vetted == first.vetted
    assert "already the champion" in again.promoted.headline
    assert again.promoted.artifacts == first.promoted.artifacts


def test_predictions_are_kept_without_pickle(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    vetted = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3)).vetted
    answers = np.load(vetted.local("predictions"), allow_pickle=False)
    assert answers.shape == (2, 2000)
    assert (answers[0] == planted.images(2000).labels).mean() == 0.95


def test_a_better_challenger_on_other_test_images_is_held(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    """Given a test set that a run brought along under the champion's name, then no figure of it makes a champion."""
    floors = {"accuracy": 0.5, "class_recall": 0.0, "churn": 1.0, "class_inferior_p": 1.0}
    chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), **floors)
    other = planted.data(tmp_path / "other", n=1900)
    found = chain.vet(tmp_path, other, planted_teacher, planted_student(3), **floors).verdict
    assert (found.decision, failed(found)) == ("hold", {"tested on the champion's own test set"})


def test_a_champion_of_other_classes_is_told(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    chain.run(tmp_path, planted_data, planted_teacher, planted_student(3))
    other = planted.data(tmp_path / "other", classes=tuple("klmnopqrst"))
    with pytest.raises(UserError, match=r"promote this model under another promotion\.name"):
        chain.vet(tmp_path, other, planted_teacher, planted_student(5))


def test_the_baseline_is_scored_on_the_same_images_and_compared(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, planted_baseline: Any
) -> None:
    """Given trees that err on four groups and a challenger on another one, then both stand in the verdict."""
    run = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), planted_baseline)
    found = run.verdict
    assert found.baseline
    assert found.against_baseline
    assert (found.baseline.accuracy.value, found.baseline.accuracy.n) == (0.8, 2000)
    assert found.baseline.sha256 == planted_baseline.artifacts["model"].sha256
    assert found.baseline.latency_us.n == 200
    assert found.against_baseline.difference.value == pytest.approx(0.15)
    assert (found.against_baseline.only_challenger_right, found.against_baseline.only_other_right) == (400, 100)
    assert found.decision == "promote"
    assert not any("baseline" in gate.name for gate in found.gates)
    assert "(teacher 95.00 %, baseline 80.00 %, no champion yet)" in run.vetted.headline
    assert run.vetted.metrics["baseline.test_accuracy"] == found.baseline.accuracy
    assert np.load(run.vetted.local("predictions"), allow_pickle=False).shape == (3, 2000)


@pytest.mark.parametrize(
    ("errors", "decision", "gate"),
    [
        ((3,), "promote", None),
        ((1, 3, 5, 7), "hold", "significantly better than the baseline"),
        ((1, 3, 5, 7, 9, 11), "reject", "not significantly worse than the baseline"),
    ],
)
def test_a_challenger_may_be_asked_to_beat_the_baseline(
    tmp_path: Path,
    planted_data: StageResult,
    planted_teacher: StageResult,
    planted_student: Any,
    planted_baseline: StageResult,
    errors: tuple[int, ...],
    decision: str,
    gate: str | None,
) -> None:
    settings = {"accuracy": 0.5, "class_recall": 0.0, "policy": "strict"}
    student = planted_student(*errors)
    found = chain.vet(tmp_path, planted_data, planted_teacher, student, planted_baseline, **settings).verdict
    assert found.decision == decision
    assert gate is None or gate in failed(found)


def test_without_a_baseline_none_can_be_beaten(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    with pytest.raises(UserError, match=r"policy strict asks for baseline_worse_p: give --baseline the result of"):
        chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), policy="strict")


def test_another_content_of_a_policy_is_another_verdict(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    """Given a policy's file that is edited, then the challenger is vetted anew by it."""
    file = tmp_path / "ours.yaml"
    decisions = []
    for least in (0.9, 0.99):
        file.write_text(f"accuracy: {{at_least: {least}, otherwise: reject}}\n")
        settings = {"policy": str(file), "gates": {}}
        found = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), **settings).verdict
        assert [gate.bound for gate in found.gates] == [least]
        decisions.append(found.decision)
    assert decisions == ["promote", "reject"]


def test_another_baseline_is_another_verdict(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, planted_baseline: Any
) -> None:
    keys = {
        chain.vet(tmp_path / str(bool(given)), planted_data, planted_teacher, planted_student(3), given).vetted.key
        for given in (None, planted_baseline)
    }
    assert len(keys) == 2


def test_too_few_test_images_are_held(
    tmp_path: Path, planted_teacher: StageResult, planted_student: Any, planted_data: StageResult
) -> None:
    """Given a policy that asks for more images than there are, in all or of a class, then no figure of it counts."""
    for asked, held in (("test_images", 2001), ("test_images_per_class", 201)):
        file = tmp_path / f"{asked}.yaml"
        for least in (held - 1, held):
            file.write_text(f"{asked}: {{at_least: {least}, otherwise: hold}}\n")
            settings = {"policy": str(file), "gates": {}}
            found = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), **settings).verdict
            assert (found.decision, found.gates[0].value) == ("hold" if least == held else "promote", held - 1)


def test_a_network_is_no_baseline(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    chosen = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3)).challenger
    config = verdict.VetConfig(
        challenger=chosen.uri, data=planted_data.uri, baseline=chosen.uri, registry=str(tmp_path / "registry")
    )
    with pytest.raises(UserError, match="is not a model of boosted trees"):
        verdict.run(config, tmp_path / "again")
