"""Class quotas (method §5.1): by hand, against a deal one by one, and properties."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairfal_flwr.query.quota import class_quotas


@pytest.mark.parametrize(
    ("pool_sizes", "budget", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 12, 11], 8, [2, 3, 3]),  # the remainder goes to the largest pools
        ([10, 10, 10], 4, [2, 1, 1]),  # of equal pools to the lower class
        ([10, 1, 5], 8, [4, 1, 3]),  # class 1 gives 1 back, class 0 takes it
        ([9, 0, 0, 6, 8], 10, [4, 0, 0, 3, 3]),  # 2 each; 4 back: 0, 4, 3, then 0
        ([0, 7, 0], 5, [0, 5, 0]),
        ([2, 2], 4, [2, 2]),
        ([3, 1], 0, [0, 0]),
        ([1, 1, 1], 1, [1, 0, 0]),
    ],
)
def test_quotas_by_hand(pool_sizes, budget, expected):
    assert class_quotas(torch.tensor(pool_sizes), budget).tolist() == expected


@st.composite
def pools_and_budgets(draw):
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=8))
    return sizes, draw(st.integers(0, sum(sizes)))


@given(pools_and_budgets())
def test_quotas_equal_a_deal_one_by_one(case):
    sizes, budget = case
    expected = reference.quotas(sizes, budget)
    assert class_quotas(torch.tensor(sizes), budget).tolist() == expected


@given(pools_and_budgets())
def test_quotas_fill_the_budget_within_the_pools_as_evenly_as_they_allow(case):
    sizes, budget = torch.tensor(case[0]), case[1]
    quotas = class_quotas(sizes, budget)
    assert quotas.sum() == budget
    assert (quotas >= 0).all()
    assert (quotas <= sizes).all()
    with_room = quotas[quotas < sizes]
    if len(with_room):
        # One apart from the remainder, one from where the deal of the excess ends.
        assert quotas.max() - with_room.min() <= 2


@given(pools_and_budgets(), st.randoms(use_true_random=False))
def test_quotas_do_not_depend_on_the_order_of_distinct_pools(case, random):
    sizes = sorted(set(case[0]))
    budget = min(case[1], sum(sizes))
    order = random.sample(range(len(sizes)), len(sizes))
    quotas = class_quotas(torch.tensor(sizes), budget)
    shuffled = class_quotas(torch.tensor(sizes)[order], budget)
    assert shuffled.equal(quotas[order])


def test_a_budget_beyond_the_pools_is_refused():
    with pytest.raises(ValueError, match=r"Expected a budget of at most 5, got 6\."):
        class_quotas(torch.tensor([2, 3]), 6)
