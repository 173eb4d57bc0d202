"""FairFAL (method §3–5): a worked example, each stage by hand, and a slow twin."""

import math

import pytest
import reference
import torch
from torch.testing import assert_close

from fairfal_flwr.query import AdaptiveRule, Outputs, QueryContext, select
from fairfal_flwr.query.measures import normalized_entropies
from fairfal_flwr.query.model_choice import balanced_counts
from fairfal_flwr.query.registry import STRATEGIES
from fairfal_flwr.query.strategies.fairfal import uncertain_candidates


def distributions(*first: float) -> torch.Tensor:
    """Return rows (p, 1 − p)."""
    return torch.tensor([[p, 1 - p] for p in first])


def worked_example(global_imbalance: float, **others) -> QueryContext:
    """Two classes, two labeled samples, a pool of six.

    Prototypes are the axes, so pool samples 0, 1, 2 are pseudo-labeled 0 and 3, 4, 5
    are 1. π_g = (0.5, 0.5), π_l = (0.6, 0.4), so d = ½(0.1/1.1 + 0.1/0.9) = 0.10101.
    With two classes an embedding is (v, −v), v = ±(1 − p_ŷ)·h with + for ŷ = 0:

    ====== ======= =========== ============ ===========
    sample h       v of global global p_0   v of local
    ====== ======= =========== ============ ===========
    anchor (2, 0)  (.8, 0)     .6           (.4, 0)
    anchor (0, 1)  (0, −.4)    .4           (0, −.4)
    0      (3, 1)  (.3, .1)    .9           (1.5, .5)
    1      (2, 0)  (.8, 0)     .6           (.8, 0)
    2      (1, 0)  (−.3, 0)    .3           (.05, 0)
    3      (0, 1)  (0, .5)     .5           (0, −.05)
    4      (1, 4)  (−.2, −.8)  .2           (−.3, −1.2)
    5      (1, 2)  (−.1, −.2)  .1           (.5, 1)
    ====== ======= =========== ============ ===========
    """
    features = torch.tensor(
        [[3.0, 1.0], [2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 4.0], [1.0, 2.0]]
    )
    anchors = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    # The local model's features must not matter.
    return QueryContext.from_outputs(
        {
            ("global", "pool"): Outputs(
                distributions(0.9, 0.6, 0.3, 0.5, 0.2, 0.1), features
            ),
            ("global", "labeled"): Outputs(distributions(0.6, 0.4), anchors),
            ("local", "pool"): Outputs(
                distributions(0.5, 0.6, 0.95, 0.05, 0.3, 0.5), torch.full((6, 2), 1e9)
            ),
            ("local", "labeled"): Outputs(
                distributions(0.8, 0.4), torch.full((2, 2), 1e9)
            ),
        },
        labels=torch.tensor([0, 1]),
        num_classes=2,
        global_imbalance=global_imbalance,
        **others,
    )


def test_worked_example_with_the_global_model():
    """γ̄ = 0.3: score 0.7995 > 0.75, the global model judges.

    κ = 2 leaves candidates 1, 2 (p_0 = .6, .3) and 3, 4 (.5, .2). From the anchor
    (.8, 0), 2 is farther than 1; from (0, −.4), 3 is .9 away and 4 only √.2.
    """
    context = worked_example(0.3)
    selection = select("fairfal", context, 2, candidate_factor=2.0)
    assert selection.positions.tolist() == [2, 3]
    assert selection.suggestions is not None
    assert selection.suggestions.tolist() == [0, 1]
    d = 0.5 * (0.1 / 1.1 + 0.1 / 0.9)
    assert selection.notes["divergence"] == pytest.approx(d, abs=1e-6)
    assert selection.notes["score"] == pytest.approx(1 - (d + 0.3) / 2, abs=1e-6)
    assert selection.notes["global-query"] == 1
    bits = [-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in (0.3, 0.5)]
    assert selection.scores is not None
    assert selection.scores.tolist() == pytest.approx(bits)


def test_worked_example_with_the_local_model():
    """γ̄ = 0.45: score 0.7245, the local model judges; embeddings stay global.

    Candidates are 0, 1 and 5, 4; 0 and 4 are the farther ones.
    """
    selection = select("fairfal", worked_example(0.45), 2, candidate_factor=2.0)
    assert selection.positions.tolist() == [0, 4]
    assert selection.notes["global-query"] == 0


def test_worked_example_with_local_gradients():
    """γ̄ = 0.6 ≥ 0.5: the local softmax enters the embeddings, and 5 is farther."""
    selection = select("fairfal", worked_example(0.6), 2, candidate_factor=2.0)
    assert selection.positions.tolist() == [0, 5]
    selection = select(
        "fairfal", worked_example(0.6), 2, candidate_factor=2.0, gradient_model="global"
    )
    assert selection.positions.tolist() == [0, 4]
    selection = select(
        "fairfal", worked_example(0.6), 2, candidate_factor=2.0, gradient_threshold=0.7
    )
    assert selection.positions.tolist() == [0, 4]


def test_the_threshold_must_be_exceeded():
    score = select("fairfal", worked_example(0.3), 2).notes["score"]
    for threshold, judge in [(score, 0), (score - 1e-6, 1)]:
        rule = AdaptiveRule(threshold=threshold)
        selection = select("fairfal", worked_example(0.3, adaptive=rule), 2)
        assert selection.notes["global-query"] == judge


def test_candidates_that_fit_the_quota_are_all_taken_most_uncertain_first():
    selection = select("fairfal", worked_example(0.3), 4, candidate_factor=1.0)
    assert selection.positions.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("global_imbalance", [0.1, 0.45, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_the_selection_equals_that_of_the_slow_twin(seed, global_imbalance):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (20,), generator=generator)  # class 4 stays absent
    context = QueryContext.from_outputs(
        {
            (model, split): reference.random_outputs(count, 5, 6, generator)
            for model in ("global", "local")
            for split, count in [("pool", 60), ("labeled", 20)]
        },
        labels=labels,
        num_classes=5,
        global_imbalance=global_imbalance,
    )
    counts = balanced_counts(labels, 5, seed=42)
    for budget in (3, 13, 59):
        selection = select("fairfal", context, budget)
        expected = reference.fairfal(context, budget, counts)
        assert selection.positions.tolist() == expected


def test_normalized_entropy_by_hand():
    """H(½, ¼, ¼, 0) = 1.5 log 2 and log 4 = 2 log 2; 0 log 0 is 0."""
    probs = torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 0, 0, 0], [0.25] * 4])
    assert_close(normalized_entropies(probs), torch.tensor([0.75, 0.0, 1.0]))
    nats = float(normalized_entropies(probs)[0]) * math.log(4)
    assert nats == pytest.approx(reference.entropy(probs[0]))


@pytest.mark.parametrize(
    ("quota", "factor", "expected"),
    [
        (1, 2.0, [5, 1]),
        (1, 2.9, [5, 1]),  # ⌊κ·quota⌋
        (1, 0.5, [5]),  # at least one
        (2, 4.0, [5, 1, 3]),  # no more than there are
    ],
)
def test_candidates_by_hand(quota, factor, expected):
    uncertainty = torch.tensor([9.0, 0.5, 9.0, 0.1, 9.0, 0.7])
    members = torch.tensor([1, 3, 5])
    candidates = uncertain_candidates(uncertainty, members, quota, factor=factor)
    assert candidates.tolist() == expected


def test_of_equally_uncertain_candidates_the_lowest_is_first():
    candidates = uncertain_candidates(
        torch.tensor([0.3, 0.5, 0.3, 0.5]), torch.arange(4), 1, factor=3
    )
    assert candidates.tolist() == [1, 3, 0]


def test_the_stages_can_be_left_out():
    """γ̄ = 0.3, quotas of 1.

    Without candidates, class 0 takes the farthest of 0, 1, 2 from (.8, 0), which is 2,
    and class 1 the farther of 3, 4, 5 from (0, −.4), which is 3. With κ = 1 there is
    one candidate, so that k-center has no say: 1 and 3, as without k-center.
    """
    everything = select("fairfal", worked_example(0.3), 2, candidates=False)
    assert everything.positions.tolist() == [2, 3]
    for options in ({"k_center": False}, {"candidate_factor": 1.0}):
        selection = select("fairfal", worked_example(0.3), 2, **options)
        assert selection.positions.tolist() == [1, 3]
    selection = select(
        "fairfal", worked_example(0.3), 2, k_center=False, candidates=False
    )
    assert selection.positions.tolist() == [1, 3]


def test_without_candidates_the_farthest_of_the_class_is_taken():
    """The local model judges (γ̄ = 0.45) and would leave 2 out; 2 is the farthest."""
    options = {"candidate_factor": 2.0}
    with_stage = select("fairfal", worked_example(0.45), 2, **options)
    assert 2 not in with_stage.positions
    without = select("fairfal", worked_example(0.45), 2, candidates=False, **options)
    assert without.positions.tolist() == [2, 3]


def test_the_model_can_be_fixed():
    options = {"candidate_factor": 2.0}
    for model, expected in [("global", [2, 3]), ("local", [0, 4])]:
        selection = select("fairfal", worked_example(0.3), 2, model=model, **options)
        assert selection.positions.tolist() == expected
        assert selection.notes == {}


def test_prototypes_can_be_the_local_ones():
    """All local features are alike, so every sample is nearest to class 0 first."""
    selection = select("fairfal", worked_example(0.3), 2, prototypes="local")
    assert selection.suggestions is not None
    assert selection.suggestions.tolist() == [0, 0]


def test_a_candidate_factor_below_1_is_refused():
    with pytest.raises(ValueError, match=r"candidate_factor: number >= 1; got 0\.5"):
        select("fairfal", worked_example(0.3), 2, candidate_factor=0.5)


@pytest.mark.parametrize(
    ("options", "models", "needs_imbalance"),
    [
        ({}, ("global", "local"), True),
        ({"model": "global"}, ("global", "local"), True),
        ({"model": "global", "gradient_model": "global"}, ("global",), False),
        ({"model": "global", "k_center": False}, ("global",), False),
        ({"model": "local", "k_center": False}, ("global", "local"), False),
    ],
)
def test_it_asks_for_no_more_than_its_options_need(options, models, needs_imbalance):
    assert STRATEGIES["fairfal"].requirements(options) == (models, needs_imbalance)


def test_fixed_models_need_no_imbalance():
    context = worked_example(0.3)
    context.global_imbalance = None
    options = {"model": "global", "candidate_factor": 2.0}
    with pytest.raises(ValueError, match="`gradient_model` 'auto' needs the campaign"):
        select("fairfal", context, 2, **options)
    selection = select("fairfal", context, 2, gradient_model="global", **options)
    assert selection.positions.tolist() == [2, 3]


def test_a_missing_imbalance_is_named():
    context = worked_example(0.3)
    context.global_imbalance = None
    with pytest.raises(ValueError, match=r"needs the campaign's mean imbalance"):
        select("fairfal", context, 2)


def test_missing_labels_are_named():
    outputs = {
        (model, split): Outputs(torch.full((count, 2), 0.5), torch.ones(count, 3))
        for model in ("global", "local")
        for split, count in [("pool", 3), ("labeled", 0)]
    }
    context = QueryContext.from_outputs(
        outputs,
        labels=torch.empty(0, dtype=torch.int64),
        num_classes=2,
        global_imbalance=0.5,
    )
    with pytest.raises(ValueError, match=r"needs at least one labeled sample"):
        select("fairfal", context, 2)
