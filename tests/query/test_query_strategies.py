"""Strategies on outputs against slow, obvious versions or numbers worked by hand."""

import math

import pytest
import reference
import torch
from worlds import World, near, seeded

from fairfal_flwr.query import AdaptiveRule, Outputs, QueryContext, select
from fairfal_flwr.query.gradient_embedding import (
    MeanOuterProducts,
    hypothetical_gradients,
)
from fairfal_flwr.query.k_means_plus_plus import k_means_plus_plus
from fairfal_flwr.query.measures import entropies, margins
from fairfal_flwr.query.strategies.egl import expected_gradient_lengths
from fairfal_flwr.query.strategies.ensembles import reciprocal_rank_scores
from fairfal_flwr.query.strategies.ksas import (
    specialized_discrepancy,
    specialized_probs,
)
from fairfal_flwr.query.strategies.logo import best_of_each_cluster


def pool_of(probs: list[list[float]]) -> QueryContext:
    pool = Outputs(torch.tensor(probs), torch.ones(len(probs), 2))
    return QueryContext.from_outputs(
        {("global", "pool"): pool},
        labels=torch.tensor([0]),
        num_classes=len(probs[0]),
    )


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("alfa-mix", {"alpha_cap_step": 0.0}, r"number > 0 <= 1; got 0\.0"),
        ("bald", {"num_passes": 0}, r"num_passes: integer >= 1; got 0"),
        ("gcnal", {"dropout": 1.0}, r"dropout: number >= 0 < 1; got 1\.0"),
        ("ksas", {"log_prior": math.nan}, r"log_prior: number >= 0; got nan"),
        ("ifal", {"num_neighbors": 2.5}, r"num_neighbors: integer >= 1; got 2\.5"),
        ("fairfal", {"k_center": 1}, r"k_center: true or false; got 1"),
    ],
)
def test_an_option_out_of_range_is_refused(world, name, options, message):
    with pytest.raises(ValueError, match=message):
        select(name, world.context(), 5, **options)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("alfa-mix", "load_network", "needs the global network itself"),
        ("deepfool", "load_inputs", "needs the inputs of the pool samples"),
        ("bald", "load_network", "give the context `load_network`"),
    ],
)
def test_what_a_strategy_lacks_is_named(world, name, missing, message):
    with pytest.raises(ValueError, match=message):
        select(name, world.context(**{missing: None}), 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alfa-mix", r"ALFA-Mix needs at least one labeled sample\."),
        ("gcnal", r"GCNAL needs at least one labeled sample\."),
        ("ifal", r"IFAL needs at least one labeled sample\."),
        ("ksas", r"KSAS needs at least one labeled sample\."),
    ],
)
def test_missing_labels_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        select(name, World(labels=[]).context(), 5)


def test_the_adaptive_choice_says_what_it_lacks(world):
    with pytest.raises(ValueError, match="choice of the model needs the campaign's"):
        select("margin", world.context(global_imbalance=None), 5, model="adaptive")
    with pytest.raises(ValueError, match="choice of the model needs at least one lab"):
        select("margin", World(labels=[]).context(), 5, model="adaptive")


# --- scores --------------------------------------------------------------------------

# Those that take the largest of the whole pool; of the rest, those that go by a score
# in each class or cluster.
RANKED = {
    *("bald", "chase", "deepfool", "egl", "ensemble-logit", "ensemble-rank"),
    *("entropy", "finetuning", "ksas", "least-confidence", "margin"),
}
SCORED = RANKED | {"diverse-batch", "fairfal", "ifal", "logo", "typiclust"}


@pytest.mark.parametrize("name", sorted(SCORED))
def test_a_strategy_that_goes_by_a_score_returns_it(world, name):
    selection = select(name, world.context(), 30)
    assert selection.scores.unique().numel() > 1
    if name in RANKED:
        assert selection.scores.equal(selection.scores.sort(descending=True).values)


def test_scores_by_hand():
    """Largest p .6, .5, .8; leads .2, .1, .6: why 1 is first and 0 is second."""
    context = pool_of([[0.6, 0.4, 0], [0.5, 0.4, 0.1], [0.8, 0.2, 0]])
    for name, expected in [
        ("least-confidence", [-0.5, -0.6]),
        ("margin", [-0.1, -0.2]),
    ]:
        assert near(select(name, context, 2).scores, expected)


def test_uncertain_gcn_scores_by_the_distance_from_the_margin(world):
    options = {"variant": "uncertain", "steps": 5}
    scores = select("gcnal", world.context(), 9, **options).scores
    assert scores.equal(scores.sort(descending=True).values)
    assert scores.max() <= 0


# --- uncertainty ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("least-confidence", [2, 1]),
        ("margin", [1, 0]),
        ("entropy", [2, 1]),
    ],
)
def test_uncertainty_by_hand(name, expected):
    """Largest p .6, .5, .46, 1; leads .2, .05, .28, 1; entropies .67, .86, 1.28, 0."""
    context = pool_of(
        [[0.6, 0.4, 0, 0], [0.5, 0.45, 0.05, 0], [0.46, 0.18, 0.18, 0.18], [1, 0, 0, 0]]
    )
    assert select(name, context, 2).positions.tolist() == expected


def test_margins_and_entropies_by_hand():
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.0, 0.9]])
    assert near(margins(probs), [0.25, 0.8])
    assert near(entropies(probs), [1.5 * math.log(2), reference.entropy(probs[1])])


def test_a_single_model_strategy_takes_the_adaptive_model(world):
    taken = set()
    for imbalance in (0.0, 1.0):
        context = world.context(global_imbalance=imbalance)
        adaptive = select("entropy", context, 9, model="adaptive")
        model = "global" if adaptive.notes["global-query"] else "local"
        fixed = select("entropy", world.context(), 9, model=model)
        assert adaptive.positions.equal(fixed.positions)
        assert adaptive.notes["score"] == pytest.approx(
            1 - (adaptive.notes["divergence"] + imbalance) / 2
        )
        taken.add(model)
    assert taken == {"global", "local"}


def test_a_model_that_was_fixed_leaves_no_note(world):
    for name in ("entropy", "coreset", "fairfal"):
        assert select(name, world.context(), 9, model="global").notes == {}


def test_the_context_says_how_the_model_is_chosen(world):
    """A score always exceeds a threshold below it, whatever the strategy."""
    score = select("margin", world.context(), 9, model="adaptive").notes["score"]
    for threshold, judge in [(score - 1e-6, 1), (score, 0)]:
        rule = AdaptiveRule(threshold=threshold)
        chosen = select("margin", world.context(adaptive=rule), 9, model="adaptive")
        assert chosen.notes["global-query"] == judge


@pytest.mark.parametrize("imbalance", [0.0, 1.0])
def test_the_reversed_choice_takes_the_other_model(world, imbalance):
    chosen, other = (
        select("entropy", world.context(global_imbalance=imbalance), 9, model=m)
        for m in ("adaptive", "adaptive-reversed")
    )
    assert other.notes["global-query"] == 1 - chosen.notes["global-query"]
    assert other.notes["score"] == chosen.notes["score"]
    model = "global" if other.notes["global-query"] else "local"
    fixed = select("entropy", world.context(), 9, model=model)
    assert other.positions.equal(fixed.positions)


# --- core-set, BADGE, EGL ------------------------------------------------------------


def test_coreset_equals_brute_force(world):
    pool = world.outputs["global", "pool"].features
    labeled = world.outputs["global", "labeled"].features
    expected = reference.k_center(pool.double(), 15, labeled.double())
    assert select("coreset", world.context(), 15).positions.tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_badge_equals_k_means_plus_plus_on_explicit_vectors(world, seed):
    outputs = world.outputs["global", "pool"]
    predicted = outputs.probs.argmax(dim=1)
    vectors = reference.embeddings(outputs.probs, outputs.features, predicted)
    draws = torch.rand(12, generator=seeded(seed)).tolist()
    expected = reference.badge(vectors, 12, draws)
    selection = select("badge", world.context(seed=seed), 12)
    assert selection.positions.tolist() == expected


def test_badge_of_equal_points_takes_the_lowest_that_is_left():
    outputs = Outputs(torch.full((5, 2), 0.5), torch.ones(5, 3))
    points = hypothetical_gradients(outputs)
    picks = k_means_plus_plus(points, 4, generator=seeded())
    assert picks.tolist() == [0, 1, 2, 3]


def test_badge_draws_in_proportion_to_squared_distances():
    """From 0 on a line with −1, 0, 2 and 9 as first: 100, 81 and 49 remain of 230."""
    outputs = Outputs(
        torch.full((4, 2), 0.5), torch.tensor([[-1.0], [0.0], [2.0], [9.0]])
    )
    points = hypothetical_gradients(outputs)
    generator, counts = seeded(), torch.zeros(4)
    for _ in range(1000):
        picks = k_means_plus_plus(points, 2, generator=generator)
        assert picks[0] == 3
        counts[picks[1]] += 1
    assert near(counts / 1000, [100 / 230, 81 / 230, 49 / 230, 0], tolerance=0.06)


def test_egl_equals_autograd(world):
    outputs, head = world.outputs["local", "pool"], world.networks["local"].head
    expected = [reference.expected_gradient_length(head, h) for h in outputs.features]
    assert near(expected_gradient_lengths(outputs), expected, tolerance=1e-4)


# --- two models ----------------------------------------------------------------------


def test_rank_fusion_by_hand():
    """The fixture of STRATEGIES B17: a, b, c and b, d, a."""
    lists = torch.tensor([0, 1, 2]), torch.tensor([1, 3, 0])
    scores = reciprocal_rank_scores(lists, 4, constant=20)
    expected = [1 / 20 + 1 / 22, 1 / 21 + 1 / 20, 1 / 22, 1 / 21]
    assert near(scores, expected)
    assert near(scores, [0.09545, 0.09762, 0.04545, 0.04762])


def test_ensemble_logit_averages_probabilities(world):
    mean = sum(world.outputs[m, "pool"].probs for m in ("global", "local")) / 2
    expected = sorted(range(60), key=lambda i: -reference.entropy(mean[i]))[:9]
    assert select("ensemble-logit", world.context(), 9).positions.tolist() == expected


def test_ensemble_badge_averages_the_explicit_embeddings(world):
    vectors = []
    for model in ("global", "local"):
        outputs = world.outputs[model, "pool"]
        predicted = outputs.probs.argmax(dim=1)
        vectors.append(reference.embeddings(outputs.probs, outputs.features, predicted))
    mean = (vectors[0] + vectors[1]) / 2
    points = MeanOuterProducts(
        tuple(
            hypothetical_gradients(world.outputs[m, "pool"])
            for m in ("global", "local")
        )
    )
    assert near(points.squared_norms(), mean.square().sum(dim=1), tolerance=1e-4)
    inner = points[:7].inner_products(points[7:])
    assert near(inner, mean[:7] @ mean[7:].T, tolerance=1e-4)
    draws = torch.rand(9, generator=seeded()).tolist()
    selection = select("ensemble-logit", world.context(), 9, flavor="badge")
    assert selection.positions.tolist() == reference.badge(mean, 9, draws)


def test_ensemble_rank_of_equal_models_is_the_model(world):
    same = {
        (model, split): world.outputs["global", split]
        for model in ("global", "local")
        for split in ("pool", "labeled")
    }
    context = QueryContext.from_outputs(same, labels=world.labels, num_classes=4)
    entropy = select("entropy", context, 9).positions
    assert select("ensemble-rank", context, 9).positions.equal(entropy)


@pytest.mark.parametrize("flavor", ["entropy", "badge"])
def test_finetuning_is_its_flavor_on_the_finetuned_model(world, flavor):
    selection = select("finetuning", world.context(), 9, flavor=flavor)
    expected = select(flavor, world.context(), 9, model="finetuned")
    assert selection.positions.equal(expected.positions)


# --- LoGo, KSAS ----------------------------------------------------------------------


@pytest.mark.parametrize("budget", [3, 4, 7, 12, 20])
@pytest.mark.parametrize("seed", range(3))
def test_logo_walks_the_clusters_as_the_slow_twin(seed, budget):
    clusters = torch.tensor([0, 2, 5])[torch.randint(3, (20,), generator=seeded(seed))]
    scores = torch.rand(20, generator=seeded(seed + 9))
    expected = reference.best_of_each_cluster(
        clusters.tolist(), scores.tolist(), budget
    )
    assert best_of_each_cluster(clusters, scores, budget).tolist() == expected


def test_logo_takes_the_globally_most_uncertain_of_each_local_cluster():
    """Two far apart local clusters; in each, the global model doubts one sample."""
    features = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    doubt = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.8, 0.2]])
    context = QueryContext.from_outputs(
        {
            ("local", "pool"): Outputs(torch.full((4, 2), 0.5), features),
            ("global", "pool"): Outputs(doubt, torch.zeros(4, 1)),
        },
        labels=torch.tensor([0]),
        num_classes=2,
    )
    assert sorted(select("logo", context, 2).positions.tolist()) == [1, 2]


def test_ksas_by_hand():
    """The fixture of STRATEGIES B17, and a class without labels adds nothing."""
    client, server = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.5]])
    counts = torch.tensor([3, 1])
    score = specialized_discrepancy(
        specialized_probs(server.softmax(1), counts),
        specialized_probs(client.softmax(1), counts),
    )
    assert near(score, [0.030914], tolerance=1e-6)
    unseen = torch.tensor([3, 1, 0])
    logits = [torch.cat([z, torch.tensor([[4.0]])], dim=1) for z in (server, client)]
    probs = [specialized_probs(z.softmax(1), unseen) for z in logits]
    assert probs[0][0, 2] == 0
    assert near(specialized_discrepancy(*probs), [0.030914], tolerance=1e-6)


@pytest.mark.parametrize("log_prior", [0.0, 0.5, 2.0])
def test_specialized_probs_shift_the_logits(log_prior):
    logits, counts = torch.randn(5, 3, generator=seeded()), torch.tensor([7, 1, 2])
    expected = (logits + log_prior * counts.log()).softmax(dim=1)
    assert near(
        specialized_probs(logits.softmax(1), counts, log_prior=log_prior), expected
    )


def test_ksas_stays_finite_where_all_is_predicted_elsewhere():
    probs = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    specialized = specialized_probs(probs, torch.tensor([2, 1, 0]))
    assert near(specialized.sum(dim=1), [1, 1])
    assert specialized_discrepancy(specialized, specialized.flip(0)).isfinite().all()
