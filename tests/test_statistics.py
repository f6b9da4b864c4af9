"""Intervals and tests agree with the references they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
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
