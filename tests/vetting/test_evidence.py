"""Over many draws of two models with known abilities, challengers get the verdicts that the policy promises."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from mlapp import statistics
from mlapp.dataset import Split
from mlapp.policy import policy_of
from mlapp.result import Metric
from mlapp.schema_policy import Vetting
from mlapp.vetting.evidence import Scored, Scores, class_inferiority, compare, measures
from mlapp.vetting.gates import Decision, Measured, decide, gates

CLASSES = tuple("abcdefghij")
DRAWS, N = 400, 2000
SETTINGS = Vetting(bootstrap_samples=1000)
POLICY = policy_of(SETTINGS)
LEVEL = POLICY["champion_better_p"].at_most
LABELS = (np.arange(N) % 10).astype(np.uint8)
TEST = Split(np.zeros((N, 1, 1, 1), np.uint8), LABELS)


def told(right: np.ndarray, draw: np.random.Generator) -> Scores:
    """Scores of a model that is right where it is said to be, and elsewhere takes an image for any other class."""
    answers = np.where(right, LABELS, (LABELS + draw.integers(1, 10, N)) % 10)
    return np.eye(10, dtype=np.float32)[answers] * 5


def by_itself(scores: Scores) -> Scored:
    confusion = statistics.confusion_matrix(LABELS, scores.argmax(1), 10)
    accuracy = statistics.proportion(int(np.trace(confusion)), N)
    return Scored(
        label="planted",
        sha256="",
        accuracy=accuracy,
        recall=statistics.class_recall(confusion),
        confusion=confusion.tolist(),
        calibration_error=statistics.calibration_error(scores, LABELS),
        corrupted={"noise": [0.7, 0.6, 0.5]},
        corrupted_accuracy=Metric(value=0.6, n=N),
        bytes=10_000,
        latency_us=Metric(value=50.0),
    )


def verdicts(gain: float, ruined: float = 0.0) -> Counter[Decision]:
    """What comes of challengers whose recall of every class differs by ``gain``, of class d by -``ruined`` instead.

    The champion is right on 92 %; by mere luck, either is the only one that is right on 3 % or more.
    """
    gains = np.where(LABELS == 3, -ruined, gain) if ruined else np.full(N, gain)
    only_ours, only_theirs = 0.03 + np.maximum(gains, 0), 0.03 + np.maximum(-gains, 0)
    apart, margin = np.ones(N, np.bool_), POLICY["class_inferior_p"].margin
    found: Counter[Decision] = Counter()
    for seed in range(DRAWS):
        draw = np.random.default_rng(seed)
        lot = draw.random(N)
        ours = told((lot < only_ours) | ((lot >= only_ours + only_theirs) & (lot < 0.92 + only_ours)), draw)
        theirs = told((lot >= only_ours) & (lot < 0.92 + only_ours), draw)
        models = {"challenger": by_itself(ours), "champion": by_itself(theirs)}
        inferior = class_inferiority(ours, theirs, TEST, margin)
        against = {"champion": compare(ours, theirs, TEST, apart, SETTINGS)}
        measured = {**measures(models, against, inferior, CLASSES, POLICY), "same_test_set": Measured(1)}
        found[decide(gates(POLICY, measured, champion=True))] += 1
    return found


def test_of_equal_models_no_more_are_promoted_than_the_level_says_and_most_are_held() -> None:
    found = verdicts(0)
    assert found["promote"] <= binom.ppf(0.99, DRAWS, LEVEL)
    assert found["hold"] > 0.9 * DRAWS


def test_the_gate_of_a_better_model_keeps_its_level_by_itself() -> None:
    """Given so many draws of two equal models that twice the level would be seen, whatever other gates do."""
    draws = 20_000
    shares = [0.04, 0.04, 0.92]
    counts, times = np.unique(np.random.default_rng(0).multinomial(N, shares, size=draws), axis=0, return_counts=True)
    shown = [statistics.mcnemar(statistics.Paired(0, b, c, rest), "greater") <= LEVEL for b, c, rest in counts.tolist()]
    assert 0.5 * LEVEL < np.average(shown, weights=times) < LEVEL


def test_what_is_no_number_passes_no_gate() -> None:
    """Given a measure that came to nothing, then its gate is missed, and said to be."""
    for measure, bound in POLICY.items():
        [gate] = gates({measure: bound}, {measure: Measured(float("nan"))}, champion=True)
        assert (gate.passed, gate.value) == (False, None)
    assert gates({"churn": POLICY["churn"]}, {}, champion=False) == []


@pytest.mark.parametrize("loss", [0.005, 0.02])
def test_worse_models_are_hardly_ever_promoted_and_clearly_worse_ones_rejected(loss: float) -> None:
    found = verdicts(-loss)
    assert found["promote"] <= binom.ppf(0.99, DRAWS, LEVEL / 2)
    assert loss < 0.02 or found["reject"] > 0.9 * DRAWS


def test_better_models_are_promoted() -> None:
    assert verdicts(0.03)["promote"] > 0.8 * DRAWS


def test_models_that_are_better_but_ruin_a_class_are_not() -> None:
    found = verdicts(0.04, ruined=0.12)
    assert found["promote"] <= binom.ppf(0.99, DRAWS, POLICY["class_inferior_p"].at_most)
    assert found["reject"] > 0.8 * DRAWS


def test_a_loss_of_just_the_margin_passes_no_more_often_than_the_level_says() -> None:
    """Given challengers much better elsewhere that lose five points in a class, then its own test's level holds."""
    assert verdicts(0.04, ruined=0.05)["promote"] <= binom.ppf(0.99, DRAWS, POLICY["class_inferior_p"].at_most)
