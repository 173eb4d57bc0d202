"""Strategies on networks, neighbors and clusters against slow, obvious versions."""

import math

import pytest
import reference
import torch
from worlds import World, near, seeded

from fairfal_flwr.query import Outputs, QueryContext, select
from fairfal_flwr.query.clusters import k_means
from fairfal_flwr.query.measures import margins
from fairfal_flwr.query.networks import evaluating
from fairfal_flwr.query.otsu import otsu_threshold
from fairfal_flwr.query.strategies import alfa_mix, deepfool, ifal
from fairfal_flwr.query.strategies.bald import mutual_information
from fairfal_flwr.query.strategies.gcnal import (
    SampleGraph,
    _adam,
    train_graph_network,
)
from fairfal_flwr.query.strategies.typiclust import typicalities

# --- IFAL ----------------------------------------------------------------------------


def test_ifals_inconsistency_of_the_models_is_the_same_whichever_is_nearer():
    """(0.4 / 0.1) · 0.5; ε keeps a distance of 0 apart from infinity."""
    local, server = torch.tensor([0.1, 0.4, 0.0]), torch.tensor([0.4, 0.1, 0.2])
    expected = torch.tensor([2.0, 2.0, 0.2 / 1e-5 * 0.2])
    torch.testing.assert_close(
        ifal.inter_model(local, server), expected, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("other", "quirks", "expected"),
    [
        ([0.4, 0.3, 0.3], "faithful", 0.2),
        ([0.1, 0.2, 0.7], "faithful", 0.0),
        ([0.1, 0.2, 0.7], "corrected", 0.6),
        ([0.4, 0.3, 0.3], "corrected", 0.3),
    ],
)
def test_ifal_distances_by_hand(other, quirks, expected):
    a, b = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([other])
    distance = ifal.distribution_distance(a, b, quirks=quirks)
    assert near(distance, [expected], tolerance=1e-6)


@pytest.mark.parametrize("num_neighbors", [3, 250])
def test_reverse_neighbors_equal_the_loops(num_neighbors, monkeypatch):
    monkeypatch.setattr(ifal, "CHUNK", 30 * 7)  # seven rows at once
    features = torch.randn(38, 5, generator=seeded())
    labels = torch.randint(4, (38,), generator=seeded(1))
    found, again = ifal.reverse_neighbor_probs(
        torch.nn.functional.normalize(features),
        [labels, labels.flip(0)],
        30,
        4,
        num_neighbors,
    )
    classes = labels.tolist()
    expected = reference.reverse_neighbors(
        features[:30], features[30:], classes[:30], classes[30:], 4, num_neighbors
    )
    assert near(found, expected)
    assert not found.equal(again)


def test_inter_model_inconsistency_by_hand():
    """0.2 / (0.1 + 1e-5) · 0.3, and 0 for models that agree."""
    score = ifal.inter_model(torch.tensor([0.1, 0.0]), torch.tensor([0.2, 0.0]))
    assert near(score, [0.2 / 0.10001 * 0.3, 0])


def test_ifal_without_enough_candidates_ranks_by_inconsistency(world):
    context = world.context()
    inter, intra = ifal.inconsistencies(context, 5, "faithful")
    expected = (inter * intra).argsort(descending=True, stable=True)[:59]
    selection = select("ifal", context, 59, num_neighbors=5)
    assert selection.positions.equal(expected)


def test_ifal_takes_the_middle_of_each_cluster_of_candidates(world):
    context = world.context()
    inter, intra = ifal.inconsistencies(context, 20, "faithful")
    scores = inter * intra
    candidates = (scores > otsu_threshold(scores)).nonzero().flatten().tolist()
    assert len(candidates) > 6
    features = world.outputs["local-last", "pool"].features[candidates]
    directions = torch.nn.functional.normalize(features)
    clusters = k_means(directions, 3, generator=seeded(), num_starts=10).labels.tolist()
    selection = select("ifal", context, 3, num_neighbors=20)
    chosen = [candidates.index(i) for i in selection.positions.tolist()]
    assert reference.is_one_from_the_middle_of_each(chosen, directions, clusters)
    assert selection.scores.equal(scores[selection.positions])


@pytest.mark.parametrize("seed", range(4))
def test_otsu_equals_trying_every_cut(seed):
    values = torch.rand(40, generator=seeded(seed))
    values[25:] += seed
    threshold = otsu_threshold(values, num_bins=16)
    assert threshold == pytest.approx(reference.otsu(values.tolist(), 16), abs=1e-5)


def test_otsu_of_equal_values_is_the_value():
    assert otsu_threshold(torch.full((3,), 0.5)) == 0.5


# --- networks: DeepFool, ALFA-Mix, BALD, GCN -----------------------------------------


@pytest.mark.parametrize("quirks", ["faithful", "corrected"])
def test_deepfool_equals_the_loop_over_samples(quirks, monkeypatch):
    world = World(num_pool=16)
    network, inputs = world.networks["global"], world.inputs["pool"]
    options = {"max_iterations": 4, "quirks": quirks}
    with evaluating(network):
        expected = [
            reference.perturbation(
                network, x, max_iterations=4, nearest=quirks == "corrected"
            )
            for x in inputs
        ]
        found = deepfool.squared_perturbations(network, inputs, **options)
    assert near(found, expected, tolerance=1e-3)
    for chunk in (6 * 7, 2**20):  # seven samples a batch, or all
        monkeypatch.setattr(deepfool, "CHUNK", chunk)
        positions = select("deepfool", world.context(), 5, **options).positions
        assert positions.equal(found.argsort(stable=True)[:5])


@pytest.mark.parametrize("cap", [0.2, 0.6, 1.0])
def test_alfa_mix_flips_what_the_loop_over_samples_flips(world, cap):
    network = world.networks["global"]
    pool, labeled = (world.outputs["global", split] for split in ("pool", "labeled"))
    anchors = alfa_mix.class_anchors(labeled.features, world.labels, 4)
    predicted = pool.probs.argmax(dim=1)
    expected = [
        reference.flips(h.clone(), int(y), anchors, network.head, cap)
        for h, y in zip(pool.features, predicted, strict=True)
    ]
    found = alfa_mix.flips(pool, anchors, network.head, cap=cap)
    assert found.tolist() == expected
    assert 0 < sum(expected) < 60


def test_alfa_mix_takes_the_middle_of_each_cluster_of_flips(world):
    pool, labeled = (world.outputs["global", split] for split in ("pool", "labeled"))
    anchors = alfa_mix.class_anchors(labeled.features, world.labels, 4)
    head, flipped = world.networks["global"].head, torch.zeros(60, dtype=torch.bool)
    for cap in (0.2, 0.4, 0.6, 0.8, 1.0):
        if flipped.sum() <= 5:
            flipped |= alfa_mix.flips(pool, anchors, head, cap=cap)
    candidates = flipped.nonzero().flatten().tolist()
    assert len(candidates) > 5
    directions = torch.nn.functional.normalize(pool.features[candidates])
    clusters = k_means(directions, 5, generator=seeded(), num_starts=10).labels.tolist()
    positions = select("alfa-mix", world.context(), 5).positions.tolist()
    chosen = [candidates.index(i) for i in positions]
    assert reference.is_one_from_the_middle_of_each(chosen, directions, clusters)


def test_alfa_mix_anchors_fall_back_to_the_mean_of_all():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 6.0]])
    anchors = alfa_mix.class_anchors(features, torch.tensor([0, 0, 2]), 3)
    assert near(anchors, [[2, 0], [2, 2], [2, 6]])


def test_alfa_mix_judges_by_the_global_head_unless_corrected(world):
    asked = []

    def load(model):
        asked.append(model)
        return world.networks[model]

    for quirks in ("faithful", "corrected"):
        context = world.context(load_network=load)
        select("alfa-mix", context, 5, model="local", quirks=quirks)
    assert asked == ["global", "local"]


def test_bald_equals_the_passes_one_by_one(world):
    network, inputs = world.networks["global"], world.inputs["pool"]
    found = mutual_information(network, inputs, num_passes=5, generator=seeded(4))
    with evaluating(network), torch.no_grad():
        features = network.backbone(inputs)
        generator, passes = seeded(4), []
        for _ in range(5):
            kept = torch.rand(features.shape, generator=generator) >= 0.3
            passes.append(network.head(features * kept / 0.7).softmax(dim=1))
    for i, score in enumerate(found.tolist()):
        mean = sum(p[i] for p in passes) / 5
        within = sum(reference.entropy(p[i]) for p in passes) / 5
        assert score == pytest.approx(reference.entropy(mean) - within, abs=1e-5)


def test_bald_drops_whole_channels_where_the_layer_does():
    network = torch.nn.Module()
    network.backbone = torch.nn.Sequential(torch.nn.Dropout2d(0.5), torch.nn.Flatten())
    network.head = torch.nn.Linear(2 * 9, 2)
    network.features_and_logits = lambda x: (
        seen.append(network.backbone(x)) or seen[-1],
        network.head(seen[-1]),
    )
    seen: list[torch.Tensor] = []
    mutual_information(
        network, torch.ones(20, 2, 3, 3), num_passes=1, generator=seeded()
    )
    per_channel = seen[0].view(40, 9)
    assert per_channel.eq(per_channel[:, :1]).all()
    assert set(per_channel.unique().tolist()) == {0.0, 2.0}


def test_bald_without_dropout_says_so(world):
    network = World().networks["global"]
    network.backbone[3] = torch.nn.Identity()
    with pytest.raises(ValueError, match="BALD needs a network with dropout"):
        select("bald", world.context(load_network=lambda model: network), 3)


def test_the_sample_graph_equals_the_dense_matrix():
    nodes = torch.nn.functional.normalize(torch.rand(12, 4, generator=seeded()))
    graph = SampleGraph(nodes)
    adjacency = nodes @ nodes.T - torch.eye(12)
    assert near(graph.column_sums(), adjacency.sum(dim=0))
    adjacency = adjacency / adjacency.sum(dim=0) + torch.eye(12)
    values = torch.randn(12, 3, generator=seeded(1))
    propagated = graph.propagate(values, graph.column_sums())
    assert near(propagated, adjacency @ values)


def test_the_graph_network_learns_who_is_labeled():
    """Two blobs, one of them labeled: its nodes score higher."""
    blob = torch.rand(30, 2, generator=seeded())
    points = torch.cat(
        [blob + torch.tensor([5.0, 0.0]), blob + torch.tensor([0.0, 5.0])]
    )
    nodes = torch.nn.functional.normalize(points)
    hidden, logits = train_graph_network(
        SampleGraph(nodes),
        30,
        hidden=16,
        dropout=0.3,
        steps=60,
        lr=0.01,
        weight_decay=5e-4,
        unlabeled_weight=1.2,
        generator=seeded(),
    )
    assert hidden.shape == (60, 16)
    assert logits[30:].min() > logits[:30].max()


def test_uncertain_gcn_takes_the_scores_nearest_to_the_margin(world):
    context = world.context(seed=3)
    select_options = {"variant": "uncertain", "steps": 5, "margin": 0.4}
    positions = select("gcnal", context, 4, **select_options).positions
    features = [world.outputs["global", s].features for s in ("pool", "labeled")]
    generator = seeded(3)
    torch.randperm(60, generator=generator)
    _, logits = train_graph_network(
        SampleGraph(torch.nn.functional.normalize(torch.cat(features))),
        60,
        hidden=128,
        dropout=0.3,
        steps=5,
        lr=1e-3,
        weight_decay=5e-4,
        unlabeled_weight=1.2,
        generator=generator,
    )
    distances = (logits[:60].sigmoid() - 0.4).abs()
    assert positions.equal(distances.argsort(stable=True)[:4])


# --- clusters: diverse mini-batch, TypiClust -----------------------------------------


def test_diverse_batch_looks_only_at_the_smallest_margins(world):
    outputs = world.outputs["global", "pool"]
    smallest = set(margins(outputs.probs).argsort(stable=True)[:12].tolist())
    picks = select("diverse-batch", world.context(), 6, prefilter_factor=2).positions
    assert set(picks.tolist()) <= smallest


def test_diverse_batch_takes_the_middle_of_each_cluster():
    """Equal margins and two blobs; in each the sample between the other two."""
    features = torch.tensor([[0.0], [0.5], [1.2], [9.0], [9.4], [10.0], [50.0]])
    probs = torch.tensor([[0.6, 0.4]] * 6 + [[1.0, 0.0]])
    context = QueryContext.from_outputs(
        {("global", "pool"): Outputs(probs, features)},
        labels=torch.tensor([0]),
        num_classes=2,
    )
    selection = select("diverse-batch", context, 2, prefilter_factor=3)
    assert sorted(selection.positions.tolist()) == [1, 4]
    assert near(selection.scores, [-0.2, -0.2])


def test_typicality_equals_the_loops(world):
    points = world.outputs["global", "pool"].features
    clusters = torch.randint(5, (60,), generator=seeded())
    clusters[7] = 9  # alone
    expected = reference.typicality(points, clusters.tolist(), 4)
    found = typicalities(points, clusters, 4, quirks="corrected")
    assert near(found, expected, tolerance=1e-3)


def test_typiclust_starts_with_large_clusters_without_labels():
    """Blobs of 5, 6 and 7; the largest holds the label, so 6 comes first, then 5."""
    generator = seeded()
    angles = [0.0, 1.5, 3.0]
    pool = torch.cat(
        [
            torch.tensor([[math.cos(a), math.sin(a)]])
            + 0.01 * torch.randn(size, 2, generator=generator)
            for a, size in zip(angles, [5, 6, 7], strict=True)
        ]
    )
    labeled = torch.tensor([[math.cos(3.0), math.sin(3.0)]])
    context = QueryContext.from_outputs(
        {
            ("global", "pool"): Outputs(torch.full((18, 2), 0.5), pool),
            ("global", "labeled"): Outputs(torch.full((1, 2), 0.5), labeled),
        },
        labels=torch.tensor([0]),
        num_classes=2,
    )
    selection = select("typiclust", context, 2, quirks="corrected")
    first, second = selection.positions.tolist()
    blob = torch.nn.functional.normalize(pool[5:11])
    typicality = reference.typicality(blob, [0] * 6, 20)
    assert first == 5 + typicality.index(max(typicality))
    assert selection.scores[0].item() == pytest.approx(max(typicality), rel=1e-3)
    assert second < 5


def test_every_step_of_gcnals_optimizer_is_pytorchs():
    """The real one is not used: its first import takes seconds (torch._dynamo)."""
    draw = seeded(3)
    ours = [
        torch.randn(shape, generator=draw).requires_grad_() for shape in (5, (3, 2))
    ]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    settings = {"lr": 0.01, "weight_decay": 0.1}
    step, reference = _adam(ours, **settings), torch.optim.Adam(theirs, **settings)
    for _ in range(20):
        gradients = [torch.randn(p.shape, generator=draw) for p in ours]
        step(gradients)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
