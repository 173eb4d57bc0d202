"""The adaptive model choice (method §3), with numbers worked by hand."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from worlds import World

from fairfal_flwr.query.model_choice import (
    AdaptiveRule,
    adaptive_model,
    balanced_counts,
    balanced_mean,
    divergence,
    global_model_score,
    imbalance,
)

PI_G = torch.tensor([0.6, 0.3, 0.1])
PI_L = torch.tensor([0.2, 0.3, 0.5])


def test_balanced_counts_top_up_a_lone_sample_to_the_largest_class():
    """Class 0 has 3 samples, class 2 has 1: it is drawn 2 more times."""
    counts = balanced_counts(torch.tensor([0, 2, 0, 0]), num_classes=4, seed=42)
    assert counts.tolist() == [1, 3, 1, 1]


def test_balanced_counts_of_no_labels_are_none():
    labels = torch.empty(0, dtype=torch.int64)
    assert balanced_counts(labels, num_classes=3, seed=0).tolist() == []


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_balanced_counts_give_every_class_present_the_same_weight(labels, seed):
    classes = torch.tensor(labels)
    counts = balanced_counts(classes, num_classes=5, seed=seed)
    assert counts.min() >= 1
    sums = torch.zeros(5, dtype=torch.int64).index_add(0, classes, counts)
    largest = classes.bincount().max()
    assert sums[classes.unique()].eq(largest).all()
    assert counts[classes == classes.mode().values].eq(1).all()
    assert balanced_counts(classes, num_classes=5, seed=seed).equal(counts)


def test_balanced_counts_depend_on_the_seed():
    labels = torch.tensor([0] * 50 + [1] * 5)
    assert not torch.equal(
        balanced_counts(labels, 2, seed=0), balanced_counts(labels, 2, seed=1)
    )


def test_balanced_counts_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    balanced_counts(torch.tensor([0, 0, 1]), 2, seed=0)
    assert torch.get_rng_state().equal(before)


def test_balanced_mean_weights_each_sample_by_its_count():
    """(1·(1, 0) + 3·(0.2, 0.8)) / 4 = (0.4, 0.6)."""
    probs = torch.tensor([[1.0, 0.0], [0.2, 0.8]])
    assert_close(balanced_mean(probs, torch.tensor([1, 3])), torch.tensor([0.4, 0.6]))


def test_balanced_mean_equals_the_mean_over_repeated_samples():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (30,), generator=generator)
    probs = torch.rand(30, 4, generator=generator).softmax(dim=1)
    counts = balanced_counts(labels, 4, seed=3)
    expected = reference.mean_over_balanced(probs, counts)
    assert_close(balanced_mean(probs, counts).double(), expected, atol=1e-6, rtol=0)


def test_imbalance_is_the_smallest_over_the_largest_mean():
    """0.1 / 0.6 = 1/6 (the fixture of STRATEGIES B17)."""
    assert imbalance(PI_G, torch.tensor([0, 1, 2])) == pytest.approx(1 / 6)


def test_imbalance_ignores_classes_without_a_label():
    """Only classes 0 and 1: 0.3 / 0.6."""
    assert imbalance(PI_G, torch.tensor([1, 0, 0])) == pytest.approx(0.5)


def test_imbalance_of_a_single_class_is_balanced():
    assert imbalance(PI_G, torch.tensor([2])) == 1


def test_divergence_by_hand():
    """(0.4/0.8 + 0/0.6 + 0.4/0.6) / 3 = 0.38889 (the fixture of STRATEGIES B17)."""
    assert divergence(PI_G, PI_L) == pytest.approx(0.388889, abs=1e-6)


def test_divergence_of_equal_means_is_0_and_of_disjoint_ones_1():
    assert divergence(PI_G, PI_G) == 0
    disjoint = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert divergence(*disjoint) == 1


def test_divergence_counts_a_class_that_neither_predicts_as_agreement():
    """(1/3 + 1/5 + 0) / 3: 0 / 0 adds nothing."""
    global_mean = torch.tensor([0.5, 0.5, 0.0])
    local_mean = torch.tensor([0.25, 0.75, 0.0])
    expected = (0.25 / 0.75 + 0.25 / 1.25) / 3
    assert divergence(global_mean, local_mean) == pytest.approx(expected)


@given(st.lists(st.floats(-4, 4), min_size=4, max_size=4), st.integers(0, 99))
def test_divergence_is_symmetric_and_in_the_unit_interval(logits, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.tensor(logits).softmax(dim=0)
    b = torch.randn(4, generator=generator).softmax(dim=0)
    assert 0 <= divergence(a, b) <= 1
    assert divergence(a, b) == divergence(b, a)


def test_score_by_hand():
    """1 − (0.38889 + 0.16667) / 2 = 0.72222: below δ = 0.75, so the local model."""
    score = global_model_score(divergence(PI_G, PI_L), 1 / 6)
    assert score == pytest.approx(0.722222, abs=1e-6)


def test_score_spans_the_unit_interval():
    assert global_model_score(0, 0) == 1
    assert global_model_score(1, 1) == 0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"threshold": 1.5}, r"Expected threshold: number >= 0 <= 1; got 1\.5"),
        ({"balance_seed": -1}, r"Expected balance_seed: integer >= 0; got -1"),
        ({"balance_seed": 0.5}, r"got 0\.5"),
    ],
)
def test_a_rule_out_of_range_is_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveRule(**numbers)


def test_the_seed_of_the_rule_draws_the_balanced_subset():
    """The mean over B_k moves with the copies of the lone samples, and so does d."""
    world = World(labels=[0] * 9 + [1, 1, 2, 2, 3, 3])
    probs = [world.outputs[m, "labeled"].probs for m in ("global", "local")]
    found = set()
    for seed in (0, 1):
        counts = balanced_counts(world.labels, 4, seed=seed)
        expected = divergence(*(balanced_mean(p, counts) for p in probs))
        context = world.context(adaptive=AdaptiveRule(balance_seed=seed))
        choice = adaptive_model(context)
        assert choice.notes["divergence"] == expected
        found.add(expected)
    assert len(found) == 2
