"""The shared selectors and the clusters."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fairfal_flwr.query.clusters import Clusters, k_means, nearest_members
from fairfal_flwr.query.selection import fill_up, rank_within, top


def test_of_equal_scores_the_lower_position_is_first():
    assert top(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 4).tolist() == [1, 3, 0, 2]


def test_fill_up_keeps_the_chosen_and_their_order():
    chosen, ranking = torch.tensor([5, 2]), torch.tensor([2, 9, 5, 1])
    assert fill_up(chosen, ranking, 4).tolist() == [5, 2, 9, 1]
    assert fill_up(chosen, ranking, 1).tolist() == [5]
    assert fill_up(chosen[:0], ranking, 2).tolist() == [2, 9]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_ranks_count_from_the_best_of_each_group(pairs):
    groups = torch.tensor([g for g, _ in pairs], dtype=torch.int64)
    scores = torch.tensor([float(s) for _, s in pairs])
    expected = [
        sum(h == g and (t > s or (t == s and j < i)) for j, (h, t) in enumerate(pairs))
        for i, (g, s) in enumerate(pairs)
    ]
    assert rank_within(groups, scores).tolist() == expected


def blobs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    return (centers[:, None] + torch.randn(3, 8, 2, generator=generator)).flatten(0, 1)


def test_k_means_finds_separate_blobs_and_their_means():
    points = blobs()
    clusters = k_means(points, 3, generator=torch.Generator().manual_seed(1))
    of_blob = clusters.labels.view(3, 8)
    assert of_blob.eq(of_blob[:, :1]).all()
    assert len(of_blob[:, 0].unique()) == 3
    means = points.view(3, 8, 2).mean(dim=1)
    assert clusters.centers[of_blob[:, 0]].allclose(means, atol=1e-5)
    assert clusters.centers.dtype == torch.float32
    nearest = nearest_members(points, clusters)
    distances = torch.cdist(means, points).argmin(dim=1)
    assert sorted(nearest.tolist()) == sorted(distances.tolist())


def test_k_means_depends_on_the_generator_alone():
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    first, second = (
        k_means(points, 7, generator=torch.Generator().manual_seed(2)) for _ in "ab"
    )
    assert first.labels.equal(second.labels)
    assert first.centers.equal(second.centers)


def test_weights_pull_the_centroid():
    points, weights = torch.tensor([[0.0], [4.0]]), torch.tensor([3.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    clusters = k_means(points, 1, generator=generator, weights=weights)
    assert clusters.centers.tolist() == [[1.0]]


def test_an_empty_cluster_has_no_nearest_member():
    clusters = Clusters(torch.tensor([2, 0, 2]), torch.tensor([[1.0], [5.0], [3.0]]))
    points = torch.tensor([[9.0], [1.0], [3.0]])
    assert nearest_members(points, clusters).tolist() == [1, 2]


def test_equal_points_leave_clusters_empty_without_a_warning(recwarn):
    generator = torch.Generator().manual_seed(0)
    clusters = k_means(torch.ones(6, 2), 4, generator=generator)
    assert len(nearest_members(torch.ones(6, 2), clusters)) == 1
    assert not recwarn
