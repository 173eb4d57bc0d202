"""Tests and intervals: against SciPy, by brute force, and worked by hand."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fairfal_flwr.report.statistics import (
    area_under_curve,
    corrected_p_values,
    hodges_lehmann,
    labels_to_reach,
    mean_interval,
    paired_effect,
    rank_strategies,
    signed_rank_counts,
    smallest_p_value,
)

DARWIN = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
NUMBERS = st.integers(-40, 40).map(lambda number: number / 8)


def sign_assignments(differences):
    """Yield the positive rank sum of every assignment of signs."""
    ranks = stats.rankdata(np.abs(differences))
    for signs in product((0, 1), repeat=len(ranks)):
        yield float(np.dot(signs, ranks))


def p_by_all_signs(differences):
    """Return the two-sided p: how many assignments are as far from the middle."""
    kept = np.array([value for value in differences if value])
    sums = np.array(list(sign_assignments(kept)))
    middle = stats.rankdata(np.abs(kept)).sum() / 2
    seen = stats.rankdata(np.abs(kept))[kept > 0].sum()
    return np.mean(np.abs(sums - middle) >= abs(seen - middle) - 1e-9)


def test_the_test_is_scipys_and_the_exact_one():
    """Wilcoxon's own example, whose p stands in SciPy's documentation."""
    effect = paired_effect(DARWIN)
    assert effect.p_value == stats.wilcoxon(DARWIN, method="exact").pvalue
    assert effect.p_value == 0.041259765625
    assert (effect.pairs, effect.different) == (15, 15)


@given(st.lists(NUMBERS, min_size=1, max_size=9).filter(any))
def test_the_p_value_counts_all_assignments_of_signs(differences):
    """Also with ties and zeros, which a table of the distribution does without."""
    assert paired_effect(differences).p_value == pytest.approx(
        p_by_all_signs(differences)
    )


def test_ties_that_rounding_would_break_are_ties():
    apart = [0.75 - 0.7, 0.55 - 0.5, 0.35 - 0.3, 0.525 - 0.575]
    assert len({abs(value) for value in apart}) > 1
    assert paired_effect(apart).p_value == paired_effect([1, 1, 1, -1]).p_value


def test_pairs_without_a_difference_are_counted_and_not_tested():
    effect = paired_effect([0.0, 0.0, 1.0])
    assert (effect.pairs, effect.different, effect.p_value) == (3, 1, 1.0)
    assert paired_effect([0.0, 0.0]).p_value == 1.0


@pytest.mark.parametrize(("pairs", "decidable"), [(5, False), (6, True)])
def test_six_pairs_are_the_fewest_that_can_tell(pairs, decidable):
    clearest = paired_effect(range(1, pairs + 1))
    assert clearest.p_value == smallest_p_value(pairs)
    assert (clearest.p_value < 0.05) == clearest.is_decidable == decidable


def test_a_pair_that_ties_tells_nothing():
    assert not paired_effect([0, 1, 2, 3, 4, 5]).is_decidable


@pytest.mark.parametrize("number", range(1, 11))
def test_the_distribution_counts_every_assignment(number):
    sums = [int(total) for total in sign_assignments(range(1, number + 1))]
    assert signed_rank_counts(number).tolist() == np.bincount(sums).tolist()


def test_the_shift_worked_by_hand():
    """Differences 1, 2, 4: the Walsh averages are 1, 1.5, 2, 2.5, 3, 4."""
    assert hodges_lehmann(np.array([1.0, 2.0, 4.0])).estimate == 2.25


def test_the_interval_of_a_textbook():
    """Depression scores of nine patients (Hollander and Wolfe, table 3.1).

    There θ is estimated by -0.46, and (-0.786, -0.010) is its interval with 96.1 %.
    """
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    shift = hodges_lehmann(np.array(after) - np.array(before))
    assert shift.estimate == pytest.approx(-0.46)
    assert (shift.low, shift.high) == pytest.approx((-0.786, -0.010))


@pytest.mark.parametrize(("number", "is_known"), [(1, False), (5, False), (6, True)])
def test_too_few_values_have_no_interval(number, is_known):
    shift = hodges_lehmann(np.arange(1.0, number + 1))
    assert np.isfinite([shift.low, shift.high]).all() == is_known
    if is_known:
        assert (shift.low, shift.high) == (1, 6)  # the range: 31 in 32


@given(st.lists(NUMBERS, min_size=6, max_size=10, unique_by=abs), NUMBERS)
def test_the_interval_holds_what_the_test_does_not_reject(differences, guess):
    """The other way to the same interval: shift by a guess and test for none."""
    moved = np.array(differences) - guess
    if len(set(np.abs(moved))) < len(moved) or 0 in moved:
        return
    shift = hodges_lehmann(np.array(differences))
    rejected = stats.wilcoxon(moved, method="exact").pvalue <= 0.05
    assert rejected == (not shift.low <= guess <= shift.high)


def test_holms_steps_worked_by_hand():
    """0.01 · 4, then 0.02 · 3, then 0.04 below 0.06, then 1 at most."""
    assert corrected_p_values([0.9, 0.01, 0.03, 0.02]) == pytest.approx(
        [0.9, 0.04, 0.06, 0.06]
    )
    assert corrected_p_values([0.6, 0.7]) == [1.0, 1.0]
    assert corrected_p_values([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_corrected_value_is_that_of_the_closed_test(p_values):
    """Holm is Bonferroni over all sets of hypotheses that hold this one."""
    number = len(p_values)
    expected = [
        max(
            min(
                1.0,
                sum(chosen)
                * min(p for p, c in zip(p_values, chosen, strict=True) if c),
            )
            for chosen in product((0, 1), repeat=number)
            if chosen[one]
        )
        for one in range(number)
    ]
    assert corrected_p_values(p_values) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("strategies", "critical_value"),
    [
        *((2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850)),
        *((7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)),
    ],
)
def test_the_critical_values_of_nemenyi(strategies, critical_value):
    """Table 5a of Demšar: the quantile over the root of 2, not the quantile."""
    if strategies == 2:  # which are compared as a pair
        assert stats.studentized_range.ppf(0.95, 2, np.inf) / math.sqrt(
            2
        ) == pytest.approx(critical_value, abs=0.001)
        return
    blocks = 14
    found = rank_strategies({f"{s}": range(s, s + blocks) for s in range(strategies)})
    scale = math.sqrt(strategies * (strategies + 1) / (6 * blocks))
    assert found.critical_difference == pytest.approx(critical_value * scale, abs=0.001)


def test_ranks_are_taken_within_a_block_and_averaged_over_blocks():
    """Block by block a, b, c: 1 2 3, then 1 3 2, then two that share the best."""
    values = {"a": [9.0, 0.9, 7.0], "b": [8.0, 0.1, 7.0], "c": [7.0, 0.5, 1.0]}
    found = rank_strategies(values)
    assert found.ranks == pytest.approx({"a": 3.5 / 3, "b": 6.5 / 3, "c": 8 / 3})
    assert found.blocks == 3
    assert found.p_value == stats.friedmanchisquare(*values.values()).pvalue
    assert sum(found.ranks.values()) == pytest.approx(6)


def test_strategies_that_are_all_alike_share_a_rank():
    found = rank_strategies({name: [1.0, 2.0] for name in "abc"})
    assert (set(found.ranks.values()), found.p_value) == ({2.0}, 1.0)


def test_the_area_is_by_labels_not_by_cycles():
    """Heights 0.25 over 1 and 0.6 over 3 of 4: 0.25 · 1/4 + 0.6 · 3/4."""
    assert area_under_curve([1, 2, 5], [0.0, 0.5, 0.7]) == pytest.approx(0.5125)
    assert area_under_curve([3], [0.4]) == 0.4


def test_labels_to_reach_a_target():
    labels, values = [10, 20, 40], [0.4, 0.6, 0.5]
    assert labels_to_reach(labels, values, 0.3) == 10
    assert labels_to_reach(labels, values, 0.5) == pytest.approx(15)
    assert labels_to_reach(labels, values, 0.6) == pytest.approx(20)
    assert math.isnan(labels_to_reach(labels, values, 0.7))
    assert labels_to_reach(labels, [math.nan, 0.6, 0.5], 0.5) == 20


def test_the_band_is_students_over_the_seeds():
    """Two seeds 1 apart: s / √n = 0.5, and t of one degree of freedom is 12.706."""
    values = np.array([[1.0, 5.0], [2.0, 5.0]])
    mean, half = mean_interval(values)
    assert mean.tolist() == [1.5, 5.0]
    assert half == pytest.approx([12.7062 / 2, 0.0], abs=1e-4)
    scipys = stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert scipys.high - scipys.low == pytest.approx(2 * half[0])
    assert np.isnan(mean_interval(values[:1])[1]).all()
