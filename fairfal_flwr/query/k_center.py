"""Greedy k-center: cover a set of points with few of them.

Active Learning for Convolutional Neural Networks: A Core-Set Approach
    Ozan Sener and Silvio Savarese. ICLR 2018, arXiv 1708.00489.
"""

import torch
from torch import Tensor

from fairfal_flwr.query.gradient_embedding import OuterProducts, squared_distances_from

__all__ = ["cover_vectors", "k_center_greedy", "nearest_squared_distances"]

CHUNK = 2**22  # distances held at once: 16 MiB


def nearest_squared_distances(points: OuterProducts, centers: OuterProducts) -> Tensor:
    """Return each point's squared distance to its nearest center.

    Parameters
    ----------
    points : OuterProducts
        N points.
    centers : OuterProducts
        M centers, taken in chunks of at most `CHUNK` distances.

    Returns
    -------
    Tensor, shape (N,)
        Infinite where M is 0.
    """
    nearest = torch.full_like(points.left[:, 0], torch.inf)
    step = max(1, CHUNK // max(1, len(points)))
    for start in range(0, len(centers), step):
        distances = points.squared_distances(centers[start : start + step])
        nearest = nearest.minimum(distances.amin(dim=1))
    return nearest


def k_center_greedy(
    points: OuterProducts, budget: int, *, anchors: OuterProducts, first: int = 0
) -> Tensor:
    """Take the point farthest from what is covered, `budget` times.

    Parameters
    ----------
    points : OuterProducts
        The N candidates.
    budget : int
        How many to take, at most N.
    anchors : OuterProducts
        M points that are covered already.
    first : int, default 0
        Position of the candidate to start from where there are no anchors.

    Returns
    -------
    Tensor, shape (budget,), int64
        Distinct positions in the order taken; of equally far points the lowest first.

    Examples
    --------
    >>> line = OuterProducts.plain(torch.tensor([[0.0], [1.0], [5.0], [9.0]]))
    >>> k_center_greedy(line, 2, anchors=line[:1])
    tensor([3, 2])
    """
    taken = torch.empty(budget, dtype=torch.int64, device=points.left.device)
    nearest = nearest_squared_distances(points, anchors)  # inf without anchors
    norms = points.squared_norms()
    for step in range(budget):
        pick = nearest.argmax() if step or len(anchors) else taken.new_tensor(first)
        taken[step] = pick
        nearest = nearest.minimum(squared_distances_from(points, pick, norms))
        nearest[pick] = -torch.inf
    return taken


def cover_vectors(points: Tensor, budget: int, *, anchors: Tensor) -> Tensor:
    """Return `k_center_greedy` of ordinary vectors.

    They are moved so that their mean is 0. No distance sees that, but far from 0 a
    squared distance would be a small difference of large numbers.

    Parameters
    ----------
    points : Tensor, shape (N, D)
        The candidates; the first of them starts where there are no anchors.
    budget : int
        How many to take, at most N.
    anchors : Tensor, shape (M, D)
        What is covered already.

    Returns
    -------
    Tensor, shape (budget,), int64
        Distinct positions in the order taken.

    Examples
    --------
    >>> line = torch.tensor([[5000.0], [5001.0], [5005.0], [5009.0]])
    >>> cover_vectors(line, 2, anchors=line[:1])
    tensor([3, 2])
    """
    vectors = torch.cat([points, anchors])
    moved = OuterProducts.plain(vectors - vectors.mean(dim=0))
    split = len(points)
    return k_center_greedy(moved[:split], budget, anchors=moved[split:])
