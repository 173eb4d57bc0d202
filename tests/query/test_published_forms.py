"""Switches between published code and paper, each form against its slow twin."""

import math

import pytest
import reference
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import normalize
from worlds import World, seeded

from fairfal_flwr.query import Outputs, QueryContext, select
from fairfal_flwr.query.clusters import k_means
from fairfal_flwr.query.k_center import cover_vectors
from fairfal_flwr.query.strategies.gcnal import SampleGraph, train_graph_network
from fairfal_flwr.query.strategies.typiclust import typicalities

FORMS = pytest.mark.parametrize("quirks", ["faithful", "corrected"])
STEPS = 30


def test_the_forms_of_a_switch_choose_differently():
    world = World(num_pool=60)
    for name, options in (("gcnal", {"steps": STEPS}), ("typiclust", {})):
        first, second = (
            select(name, world.context(), 15, quirks=quirks, **options).positions
            for quirks in ("faithful", "corrected")
        )
        assert not first.equal(second), name


# --- GCNAL ---------------------------------------------------------------------------


@FORMS
def test_gcnal_covers_the_hidden_layer_with_or_without_the_score(world, quirks):
    chosen = select("gcnal", world.context(seed=3), 8, steps=STEPS, quirks=quirks)
    features = [world.outputs["global", s].features for s in ("pool", "labeled")]
    generator = seeded(3)
    torch.randperm(60, generator=generator)
    hidden, logits = train_graph_network(
        SampleGraph(normalize(torch.cat(features))),
        60,
        hidden=128,
        dropout=0.3,
        steps=STEPS,
        lr=1e-3,
        weight_decay=5e-4,
        unlabeled_weight=1.2,
        generator=generator,
    )
    points = [
        torch.tensor([*row, z] if quirks == "faithful" else row).double()
        for row, z in zip(hidden.tolist(), logits.tolist(), strict=True)
    ]
    anchors = torch.stack(points[60:])
    expected = reference.k_center(torch.stack(points[:60]), 8, anchors)
    assert chosen.positions.tolist() == expected


# --- TypiClust -----------------------------------------------------------------------


def slow_typicality(points, members: list[int], i: int, quirks: str) -> float:
    distances = sorted(math.dist(points[i], points[j]) for j in members if j != i)
    if quirks == "faithful":
        nearest = [d * d for d in distances[: min(20, len(members) // 2)]]
    else:
        nearest = distances[: min(20, len(members) - 1)]
    return 1 / max(sum(nearest) / len(nearest), 1e-12) if nearest else 0.0


def slow_typiclust(pool, clusters: list[int], budget: int, quirks: str) -> list[int]:
    """Visit clusters in turn, few labels first, then the largest; small ones last."""
    queues, order = {}, []
    for c in set(clusters[: len(pool)]):
        members = [i for i in range(len(pool)) if clusters[i] == c]
        covered = clusters[len(pool) :].count(c)
        size = len(members) + covered if quirks == "faithful" else len(members)
        is_small = size <= 5 if quirks == "faithful" else size < 5
        typical = {i: slow_typicality(pool, members, i, quirks) for i in members}
        queues[c] = sorted(members, key=lambda i: -typical[i])
        order.append((is_small, covered, -size, c))
    chosen: list[int] = []
    for wanted in (False, True):
        turn = [c for is_small, *_, c in sorted(order) if is_small == wanted]
        while any(queues[c] for c in turn):
            chosen += [queues[c].pop(0) for c in turn if queues[c]]
    return chosen[:budget]


@FORMS
@pytest.mark.parametrize("max_clusters", [4, 9, 500])
def test_typiclust_is_its_slow_twin(quirks, max_clusters):
    world = World(num_pool=60, labels=[0, 1, 2, 3, 1])
    chosen = select(
        "typiclust", world.context(), 12, max_clusters=max_clusters, quirks=quirks
    )
    pool, labeled = (
        normalize(world.outputs["global", split].features)
        for split in ("pool", "labeled")
    )
    clusters = k_means(
        torch.cat([pool, labeled]), min(17, max_clusters), generator=seeded()
    ).labels.tolist()
    expected = slow_typiclust(pool.double().tolist(), clusters, 12, quirks)
    assert chosen.positions.tolist() == expected


def test_the_typicality_of_three_points_by_hand():
    points, together = torch.tensor([[0.0], [1.0], [4.0]]), torch.zeros(3).long()
    published = typicalities(points, together, 20, quirks="faithful")
    assert published.tolist() == pytest.approx(
        [1.0, 1.0, 1 / 9]
    )  # the nearest, squared
    meant = typicalities(points, together, 20, quirks="corrected")
    assert meant.tolist() == pytest.approx([2 / 5, 2 / 4, 2 / 7])


# --- k-means starts ------------------------------------------------------------------


@pytest.mark.parametrize("num_starts", [1, 10])
@pytest.mark.parametrize("name", ["alfa-mix", "diverse-batch", "ifal", "logo"])
def test_k_means_starts_as_often_as_it_is_told(monkeypatch, name, num_starts):
    starts = []
    original = KMeans.fit

    def counted(self, *arguments, **keywords):
        starts.append(self.n_init)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(KMeans, "fit", counted)
    options = {} if num_starts == 10 else {"num_starts": num_starts}
    context = World(num_pool=60).context()
    select(name, context, 3, **options)
    assert starts == [num_starts]


# --- CHASe's Tloc-ab -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_variation_and_entropy_are_both_scaled_over_what_is_looked_at(seed):
    world = World(num_pool=40, seed=seed)
    asleep = torch.zeros(40, dtype=torch.int64)
    asleep[:10] = 1
    memory = world.memory | {"dormant": asleep}
    selection = select(
        "chase", world.context(memory=memory), 5, score="variation-entropy"
    )
    awake = range(10, 40)
    changes = world.memory["changes"].tolist()
    probs = [world.outputs[m, "pool"].probs for m in ("global", "local-last")]
    gaps = [
        reference.entropy(g) - reference.entropy(c) for g, c in zip(*probs, strict=True)
    ]

    def scale(values: list[float], i: int) -> float:
        own = [values[j] for j in awake]
        return (values[i] - min(own)) / (max(own) - min(own))

    scores = {i: scale(changes, i) + scale(gaps, i) for i in awake}
    expected = sorted(awake, key=lambda i: -scores[i])[:5]
    assert selection.positions.tolist() == expected
    assert selection.scores.tolist() == pytest.approx(
        [scores[i] for i in expected], abs=1e-4
    )


# --- features far from 0 -------------------------------------------------------------


def test_a_shift_of_all_features_changes_no_pick(world):
    pool, labeled = (world.outputs["global", s] for s in ("pool", "labeled"))
    plain = select("coreset", world.context(), 20).positions

    def moved(outputs: Outputs) -> Outputs:
        return Outputs(outputs.probs, (outputs.features.double() + 1000).float())

    context = QueryContext.from_outputs(
        {("global", "pool"): moved(pool), ("global", "labeled"): moved(labeled)},
        labels=world.labels,
        num_classes=4,
    )
    exact = reference.k_center(
        moved(pool).features.double(), 20, moved(labeled).features.double()
    )
    assert select("coreset", context, 20).positions.tolist() == exact
    assert plain.tolist() == exact


def test_without_anchors_the_first_vector_starts():
    vectors = torch.tensor([[7.0], [1.0], [8.0]])
    assert cover_vectors(vectors, 3, anchors=vectors[:0]).tolist() == [0, 1, 2]
