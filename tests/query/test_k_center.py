"""Greedy k-center: by hand, against explicit embeddings, and properties."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairfal_flwr.query import k_center
from fairfal_flwr.query.gradient_embedding import OuterProducts, gradient_embedding
from fairfal_flwr.query.k_center import k_center_greedy, nearest_squared_distances

LINE = OuterProducts.plain(torch.tensor([[0.0], [1.0], [4.0], [9.0], [6.0]]))


def test_anchored_by_hand():
    """From 0: 9 is farthest; then 4 (4 from 0) beats 6 (3 from 9); then 6."""
    assert k_center_greedy(LINE, 3, anchors=LINE[:1]).tolist() == [3, 2, 4]


def test_without_anchors_it_starts_at_the_first():
    """From 4: 9 is 5 away, 0 is 4 away, 6 is 2 away."""
    picks = k_center_greedy(LINE, 3, anchors=LINE[:0], first=2)
    assert picks.tolist() == [2, 3, 0]
    assert k_center_greedy(LINE, 1, anchors=LINE[:0]).tolist() == [0]


def test_of_equally_far_points_the_lowest_is_first():
    points = OuterProducts.plain(torch.tensor([[0.0], [2.0], [-2.0], [2.0]]))
    picks = k_center_greedy(points, 4, anchors=points[:1])
    assert picks.tolist() == [1, 2, 0, 3]


def test_duplicates_of_an_anchor_are_taken_last_and_once():
    points = OuterProducts.plain(torch.tensor([[1.0], [1.0], [1.0], [5.0]]))
    picks = k_center_greedy(points, 4, anchors=points[:1])
    assert picks.tolist() == [3, 0, 1, 2]


def random_points(num: int, seed: int) -> tuple[OuterProducts, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = reference.random_outputs(num, 4, 6, generator)
    labels = torch.randint(4, (num,), generator=generator)
    return (
        gradient_embedding(outputs.probs, outputs.features, labels),
        reference.embeddings(outputs.probs, outputs.features, labels),
    )


@pytest.mark.parametrize("num_anchors", [0, 1, 7])
@pytest.mark.parametrize("seed", range(5))
def test_factored_picks_equal_those_of_the_explicit_embedding(seed, num_anchors):
    points, vectors = random_points(30 + num_anchors, seed)
    picks = k_center_greedy(points[:30], 12, anchors=points[30:], first=3)
    expected = reference.k_center(vectors[:30], 12, vectors[30:], first=3)
    assert picks.tolist() == expected


@given(st.integers(1, 20), st.integers(0, 4), st.integers(0, 999), st.data())
def test_picks_are_distinct_and_move_with_the_pool(num, num_anchors, seed, data):
    points, _ = random_points(num + num_anchors, seed)
    budget = data.draw(st.integers(1, num))
    order = torch.tensor(data.draw(st.permutations(range(num))))
    pool, anchors = points[:num], points[num:]
    picks = k_center_greedy(pool, budget, anchors=anchors)
    assert len(set(picks.tolist())) == budget
    first = int((order == 0).nonzero())
    moved = k_center_greedy(pool[order], budget, anchors=anchors, first=first)
    assert order[moved].tolist() == picks.tolist()


def test_nearest_distances_do_not_depend_on_the_chunks(monkeypatch):
    points, vectors = random_points(40, seed=2)
    whole = nearest_squared_distances(points[:10], points[10:])
    monkeypatch.setattr(k_center, "CHUNK", 70)
    torch.testing.assert_close(
        nearest_squared_distances(points[:10], points[10:]), whole
    )
    expected = torch.cdist(vectors[:10], vectors[10:]).square().amin(dim=1).float()
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
