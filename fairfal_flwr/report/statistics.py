"""Whether a difference between runs holds: tests, effects and their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ALPHA",
    "Effect",
    "Interval",
    "Ranking",
    "area_under_curve",
    "corrected_p_values",
    "hodges_lehmann",
    "labels_to_reach",
    "mean_interval",
    "paired_effect",
    "rank_strategies",
    "signed_rank_counts",
    "smallest_p_value",
]

Values = NDArray[np.float64]

ALPHA = 0.05
LEVEL = 1 - ALPHA
DECIMALS = 12  # differences that are equal but for rounding in their last bits are ties


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval.

    Parameters
    ----------
    estimate : float
    low, high : float
        Infinite where there are too few values for an interval.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """How far one strategy is from another over pairs of runs.

    Parameters
    ----------
    pairs : int
        How many.
    different : int
        In how many of them the two differ at all; the test goes by these.
    shift : Interval
        The Hodges-Lehmann estimate of the difference.
    p_value : float
        Two-sided, of Wilcoxon's signed-rank test.
    """

    pairs: int
    different: int
    shift: Interval
    p_value: float

    @property
    def is_decidable(self) -> bool:
        """Whether any outcome of so many pairs could have p < 0.05."""
        return smallest_p_value(self.different) < ALPHA


@dataclass(frozen=True)
class Ranking:
    """Strategies by their mean rank over blocks, which are pairs of many.

    Parameters
    ----------
    ranks : Mapping[str, float]
        Mean rank of each; 1 is the best.
    blocks : int
        How many seeds and partitions all of them were run on.
    p_value : float
        Of Friedman's test that all are alike.
    critical_difference : float
        Mean ranks that differ by less are no different by Nemenyi's test.
    """

    ranks: Mapping[str, float]
    blocks: int
    p_value: float
    critical_difference: float


def area_under_curve(labels: Sequence[float], values: Sequence[float]) -> float:
    """Return the area under a learning curve over its width: its mean height.

    AULC = Σ_c (l_(c+1) - l_c) (v_c + v_(c+1)) / 2 / (l_C - l_1); the value itself of a
    single cycle.

    Examples
    --------
    >>> round(area_under_curve([0, 1, 3], [0.0, 0.5, 0.7]), 4)
    0.4833
    """
    width = labels[-1] - labels[0]
    if not width:
        return float(values[-1])
    heights = (np.asarray(values[1:]) + np.asarray(values[:-1])) / 2
    return float(np.diff(labels) @ heights) / width


def labels_to_reach(
    labels: Sequence[float], values: Sequence[float], target: float
) -> float:
    """Return how many labels a curve needs to reach a target; nan if it never does.

    The curve is straight between two cycles, and the first crossing counts.

    Examples
    --------
    >>> labels_to_reach([100, 200, 300], [0.5, 0.75, 0.5], 0.625)
    150.0
    """
    for number, value in enumerate(values):
        if value < target or math.isnan(value):
            continue
        if not number or math.isnan(values[number - 1]):
            return float(labels[number])
        rise = (target - values[number - 1]) / (value - values[number - 1])
        return labels[number - 1] + rise * (labels[number] - labels[number - 1])
    return math.nan


def mean_interval(values: Values) -> tuple[Values, Values]:
    """Return mean and half width of the 95 % confidence interval of each column.

    Student's t over the rows, which are the seeds: t_(0.975, n-1) s / √n.

    Parameters
    ----------
    values : ndarray, shape (seeds, columns)

    Returns
    -------
    mean, half_width : ndarray, shape (columns,)
        The half width is nan for a single seed.
    """
    number = len(values)
    if number < 2:
        return values.mean(axis=0), np.full(values.shape[1], math.nan)
    from scipy.stats import t  # takes a second, which a single run need not wait

    spread = values.std(axis=0, ddof=1) / math.sqrt(number)
    return values.mean(axis=0), t.ppf((1 + LEVEL) / 2, number - 1) * spread


def smallest_p_value(pairs: int) -> float:
    """Return the least two-sided p that a signed-rank test of so many pairs can have.

    All differences have one sign: 2 · 2^-n. So 6 pairs are the fewest that can reach
    p < 0.05.

    Examples
    --------
    >>> smallest_p_value(5), smallest_p_value(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - pairs))


def paired_effect(differences: Sequence[float]) -> Effect:
    """Return effect and test of the differences of pairs of runs.

    Pairs without a difference do not enter the test, as Wilcoxon had it; they do enter
    the estimate. The p-value is exact up to 50 pairs, with ties up to 13.

    Parameters
    ----------
    differences : sequence of float
        At least one.
    """
    from scipy.stats import wilcoxon

    known = np.array(differences, dtype=np.float64).round(DECIMALS)
    different = known[known != 0]
    p_value = float(wilcoxon(different).pvalue) if len(different) else 1.0
    return Effect(len(known), len(different), hodges_lehmann(known), p_value)


def hodges_lehmann(differences: Values) -> Interval:
    """Return the Hodges-Lehmann estimate of a shift with its 95 % interval.

    The estimate is the median of the n (n + 1) / 2 Walsh averages (d_i + d_j) / 2 with
    i <= j. The interval goes from the k-th smallest of them to the k-th largest, where
    k is the largest whole number with P(W <= k - 1) <= 0.025 for the signed-rank sum W
    of n values without a shift: Hollander, Wolfe and Chicken, Nonparametric Statistical
    Methods, 3rd edition, sections 3.2 and 3.3.

    Parameters
    ----------
    differences : ndarray, shape (n,)
    """
    first, second = np.triu_indices(len(differences))
    walsh = np.sort((differences[first] + differences[second]) / 2)
    counts = signed_rank_counts(len(differences))
    below = np.cumsum(counts) / 2.0 ** len(differences)
    k = int(np.searchsorted(below, (1 - LEVEL) / 2, side="right"))
    low, high = (walsh[k - 1], walsh[-k]) if k else (-math.inf, math.inf)
    return Interval(float(np.median(walsh)), float(low), float(high))


def signed_rank_counts(number: int) -> Values:
    """Count the sets of the ranks 1 to n that have each sum from 0 to n (n + 1) / 2.

    Over 2^n it is the exact distribution of the signed-rank sum without a shift.

    Examples
    --------
    >>> signed_rank_counts(3).tolist()
    [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0]
    """
    counts = np.zeros(number * (number + 1) // 2 + 1)
    counts[0] = 1
    for rank in range(1, number + 1):
        counts[rank:] = counts[rank:] + counts[:-rank]
    return counts


def corrected_p_values(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several tests, corrected by Holm's step-down procedure.

    The i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)): Holm,
    A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
    Statistics 6 (1979).

    Examples
    --------
    >>> corrected_p_values([0.03, 0.01, 0.04])
    [0.06, 0.03, 0.06]
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(stepped, 1)
    return [float(value) for value in corrected]


def rank_strategies(values: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank strategies within each block and compare their mean ranks.

    Friedman's test and Nemenyi's critical difference, CD = q √(k (k + 1) / (6 N)),
    with q the 0.95 quantile of the studentized range of k groups and infinitely many
    degrees of freedom, over √2: Demšar, Statistical Comparisons of Classifiers over
    Multiple Data Sets, JMLR 7 (2006).

    Parameters
    ----------
    values : Mapping of str to sequence of float
        By strategy, at least three, a value for each block, in the same order; larger
        is better.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    table = np.round(np.array(list(values.values()), dtype=np.float64), DECIMALS)
    strategies, blocks = table.shape
    ranks = rankdata(-table, axis=0).mean(axis=1)  # within a block, then over blocks
    quantile = studentized_range.ppf(LEVEL, strategies, np.inf) / math.sqrt(2)
    scale = math.sqrt(strategies * (strategies + 1) / (6 * blocks))
    alike = (table == table[0]).all()
    return Ranking(
        ranks=dict(zip(values, ranks.tolist(), strict=True)),
        blocks=blocks,
        p_value=1.0 if alike else float(friedmanchisquare(*table).pvalue),
        critical_difference=float(quantile * scale),
    )
