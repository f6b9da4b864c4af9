"""How sure a figure is, and whether two classifiers that saw the same images differ.

Counts in, intervals and p-values out; every function is deterministic but for the bootstrap, which takes a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlapp.result import Metric

Z95 = 1.959963984540054
ERROR_RATE = 0.01  # how often models that only guess may pass for ones that learnt
Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Paired:
    """How often two classifiers were right on the same images; ``b``: only the first was, ``c``: only the second."""

    both: int
    b: int
    c: int
    neither: int

    @classmethod
    def of(cls, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Paired:
        """Count from two vectors that say where each classifier was right."""
        if first.shape != second.shape:
            raise ValueError(f"paired vectors differ in shape: {first.shape} and {second.shape}")
        counts = np.bincount(2 * (~first).astype(int) + ~second, minlength=4)
        return cls(*(int(count) for count in counts))

    @property
    def n(self) -> int:
        """Number of images."""
        return self.both + self.b + self.c + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first less that of the second."""
        return (self.b - self.c) / self.n


def proportion(successes: int, n: int) -> Metric:
    """A share with its 95 % Wilson score interval.

    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is not a share")
    share, spread = successes / n, Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * np.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At 0 and at n the bound is exactly the share; rounding errors would leave it outside its own interval.
    return Metric(value=share, n=n, low=min(share, float(centre - half)), high=max(share, float(centre + half)))


def mcnemar(paired: Paired, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """P-value of McNemar's exact test that two classifiers err equally often; ``greater``: that the first is no better.

    McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or percentages.
    Psychometrika 12, 153-157. Recommended for classifiers that were trained once by Dietterich, T. G. (1998).
    Approximate statistical tests for comparing supervised classification learning algorithms. Neural Computation 10.
    """
    from scipy.stats import binomtest

    discordant = paired.b + paired.c
    return float(binomtest(paired.b, discordant, alternative=alternative).pvalue) if discordant else 1.0


def inferiority(paired: Paired, margin: float) -> float:
    """P-value of Tango's score test that the first's accuracy is lower than the second's by ``margin`` or more.

    A small one shows that the first is not inferior: whatever it loses is less than the margin.
    Tango, T. (1998). Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design. Statistics in Medicine 17, 891-908.
    """
    from scipy.stats import norm

    n, least = paired.n, -margin
    # Of all pairs of probabilities (only the first right, only the second) that differ by the margin, the likeliest.
    linear = -paired.b - paired.c + (2 * n - paired.b + paired.c) * least
    # Never negative but by rounding, where all of a loss that is larger than the margin is one-sided.
    root = np.sqrt(max(0.0, linear**2 + 8 * n * paired.c * least * (1 - least)))
    only_second = (root - linear) / (4 * n)
    variance = n * (2 * only_second + least * (1 - least))
    return float(norm.sf((paired.b - paired.c - n * least) / np.sqrt(variance)))


def calibration_error(scores: npt.NDArray[np.float32], labels: Labels, bins: int = 15) -> Metric:
    """Expected calibration error of class ``scores`` (n, classes), logits: how far confidence is from accuracy.

    The mean over images of what the confidence and the accuracy of an image's bin differ by; bins of equal width.
    Guo, C. et al. (2017). On Calibration of Modern Neural Networks. ICML.
    """
    from scipy.special import softmax

    confidence = softmax(scores.astype(np.float64), -1).max(-1)
    surplus = confidence - (scores.argmax(-1) == labels)
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return Metric(value=float(np.abs(np.bincount(bin_of, surplus)).sum() / len(labels)), n=len(labels))


def difference(paired: Paired, samples: int, seed: int) -> Metric:
    """Accuracy of the first less that of the second, with its 95 % paired bootstrap percentile interval.

    Resampling images with replacement draws the counts of the outcomes (only the first right, only the second,
    no difference) from one multinomial, so that is drawn instead: the same distribution at a fraction of the cost.
    Efron, B. & Tibshirani, R. J. (1993). An Introduction to the Bootstrap, chapter 13.
    """
    shares = np.array([paired.b, paired.c, paired.both + paired.neither]) / paired.n
    draws = np.random.default_rng(seed).multinomial(paired.n, shares, size=samples)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / paired.n, [0.025, 0.975])
    return Metric(value=paired.difference, n=paired.n, low=float(low), high=float(high))


def confusion_matrix(labels: Labels, predictions: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Counts (classes, classes): row is the true class, column the predicted one."""
    cells = labels.astype(np.int64) * classes + predictions
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def class_recall(confusion: npt.NDArray[np.int64]) -> list[Metric]:
    """The share of each class's images that were recognised, with its Wilson interval."""
    return [proportion(int(confusion[row, row]), int(confusion[row].sum())) for row in range(len(confusion))]


def median_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Distribution-free 95 % interval of the median, between two order statistics (binomial).

    Conover, W. J. (1999). Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    from scipy.stats import binom

    rank = int(binom.ppf(0.025, len(values), 0.5))
    ordered = np.sort(values)
    return float(ordered[max(rank - 1, 0)]), float(ordered[min(len(values) - rank, len(values) - 1)])


def most_by_luck(images: int, classes: int, trials: int) -> int:
    """How many of so many images the luckiest of several models that only guess has right.

    The binomial bound, corrected for as many models (Bonferroni): all of them are below it with 99 % probability.
    """
    from scipy.stats import binom

    return int(binom.isf(ERROR_RATE / trials, images, 1 / classes))
