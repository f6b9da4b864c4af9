"""Intervals and tests agree with the references they claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import confusion_matrix, recall_score

from mlapp import statistics
from mlapp.statistics import Paired

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 7), (910, 1000), (9231, 10_000)])
def test_proportion_is_the_wilson_interval(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    metric = statistics.proportion(successes, n)
    assert (metric.value, metric.n) == (successes / n, n)
    assert (metric.low, metric.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 9), (30, 30), (120, 180)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(b: int, c: int) -> None:
    p = statistics.mcnemar(Paired(both=900, b=b, c=c, neither=20))
    tail = sum(stats.binom.pmf(k, b + c, 0.5) for k in range(min(b, c) + 1))
    assert p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_mcnemar_of_one_side_is_the_tail_of_that_side(alternative: Any) -> None:
    p = statistics.mcnemar(Paired(both=900, b=31, c=17, neither=20), alternative)
    tail = stats.binom.sf(30, 48, 0.5) if alternative == "greater" else stats.binom.cdf(31, 48, 0.5)
    assert p == pytest.approx(tail, rel=1e-9)
    assert statistics.mcnemar(Paired(900, 0, 0, 0), alternative) == 1.0


@pytest.mark.parametrize(("b", "c", "n"), [(3, 9, 100), (0, 0, 50), (20, 45, 1000), (40, 10, 400), (0, 60, 1000)])
def test_inferiority_is_the_score_test_at_the_likeliest_shares_on_the_margin(b: int, c: int, n: int) -> None:
    """Given the likelihood of all shares on the edge of the hypothesis, then its maximum gives the same statistic."""
    margin = 0.05

    def cost(only_second: float) -> float:
        only_first = only_second - margin
        counts, shares = (b, c, n - b - c), (only_first, only_second, 1 - only_first - only_second)
        return -sum(count * np.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True))

    bounds = (margin, (1 + margin) / 2)
    likeliest = optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    deviation = np.sqrt(n * (2 * likeliest - margin - margin**2))
    expected = stats.norm.sf((b - c + n * margin) / deviation)
    found = statistics.inferiority(Paired(both=n - b - c, b=b, c=c, neither=0), margin)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.1])
def test_inferiority_is_a_probability_for_any_counts(margin: float) -> None:
    """Given that all of a loss is one-sided, then rounding must not make a p-value that is no number."""
    for n in (20, 100, 294, 1000):
        for c in range(n + 1):
            assert 0 <= statistics.inferiority(Paired(both=n - c, b=0, c=c, neither=0), margin) <= 1


def test_inferiority_keeps_its_level_at_the_margin_and_has_power_for_equal_models() -> None:
    def shown(only_first: float, only_second: float) -> float:
        shares = [only_first, only_second, 0.85, 0.15 - only_first - only_second]
        draws = np.random.default_rng(1).multinomial(1000, shares, size=2000)
        found = [statistics.inferiority(Paired(both=d[2], b=d[0], c=d[1], neither=d[3]), 0.05) < 0.05 for d in draws]
        return float(np.mean(found))

    assert shown(0.02, 0.07) == pytest.approx(0.05, abs=0.015)
    assert shown(0.04, 0.04) > 0.99


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy_of_the_bins() -> None:
    scores = DRAW.normal(0, 2, (3000, 4)).astype(np.float32)
    labels = DRAW.integers(0, 4, 3000)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    confidence, hits = shares.max(1), shares.argmax(1) == labels
    gap = 0.0
    for low in np.linspace(0, 1, 16)[:-1]:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap += inside.mean() * abs(confidence[inside].mean() - hits[inside].mean())
    found = statistics.calibration_error(scores, labels)
    assert (found.value, found.n) == (pytest.approx(gap, abs=1e-6), 3000)


def test_calibration_error_is_small_where_confidence_is_the_truth_and_large_where_it_is_not() -> None:
    scores = DRAW.normal(0, 2, (50_000, 4)).astype(np.float32)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    labels = (shares.cumsum(1) < DRAW.random((50_000, 1))).sum(1)
    assert statistics.calibration_error(scores, labels).value < 0.01
    assert statistics.calibration_error(3 * scores, labels).value > 0.1
    assert statistics.calibration_error(np.float32([[1e4, 0], [0, 1e4]]), np.array([0, 1])).value == 0


def test_mcnemar_keeps_its_level_for_equal_models() -> None:
    rejected = 0
    for _ in range(600):
        b, c, both, neither = DRAW.multinomial(2000, [0.04, 0.04, 0.85, 0.07])
        rejected += statistics.mcnemar(Paired(both=both, b=b, c=c, neither=neither)) < 0.05
    assert rejected / 600 < 0.07


def test_bootstrap_interval_equals_resampling_the_images() -> None:
    first, second = DRAW.random(3000) < 0.92, DRAW.random(3000) < 0.90
    metric = statistics.difference(Paired.of(first, second), samples=20_000, seed=1)
    reference = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        batch=200,
        random_state=np.random.default_rng(2),
    ).confidence_interval
    assert metric.value == pytest.approx(first.mean() - second.mean())
    assert (metric.low, metric.high) == pytest.approx((reference.low, reference.high), abs=1.5e-3)


def test_pairs_are_counted_by_who_was_right() -> None:
    paired = Paired.of(np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool))
    assert (paired.both, paired.b, paired.c, paired.neither, paired.n) == (2, 1, 1, 1, 5)
    with pytest.raises(ValueError, match="differ in shape"):
        Paired.of(np.ones(3, bool), np.ones(4, bool))


def test_confusion_and_recall_agree_with_scikit_learn() -> None:
    labels, predictions = DRAW.integers(0, 10, (2, 5000)).astype(np.uint8)
    confusion = statistics.confusion_matrix(labels, predictions, 10)
    assert np.array_equal(confusion, confusion_matrix(labels, predictions))
    recalls = [metric.value for metric in statistics.class_recall(confusion)]
    np.testing.assert_allclose(recalls, recall_score(labels, predictions, average=None))


def test_interval_of_the_median_covers_it() -> None:
    covered = 0
    for _ in range(400):
        low, high = statistics.median_interval(DRAW.exponential(size=101))
        covered += low <= np.log(2) <= high
    assert 0.92 < covered / 400 <= 1
