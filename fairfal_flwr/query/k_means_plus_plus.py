"""k-means++: draw points that lie far from each other.

k-means++: The Advantages of Careful Seeding
    David Arthur and Sergei Vassilvitskii. SODA 2007.
"""

import torch
from torch import Generator, Tensor

from fairfal_flwr.query.gradient_embedding import Points, squared_distances_from

__all__ = ["k_means_plus_plus"]


def k_means_plus_plus(points: Points, budget: int, *, generator: Generator) -> Tensor:
    """Draw points, each with a probability that grows with its squared distance.

    The first is the one of the largest norm. Each next one is drawn with probability
    d²(x) / Σ d², d the distance to the nearest that is taken; where all distances are
    0, the lowest position that is left is taken.

    Parameters
    ----------
    points : Points
        N points.
    budget : int
        How many, at most N.
    generator : torch.Generator
        On the CPU; one number is drawn for each point but the first.

    Returns
    -------
    Tensor, shape (budget,), int64
        Distinct positions in the order drawn.
    """
    norms = points.squared_norms()
    draws = torch.rand(budget, generator=generator).to(norms)
    taken = norms.new_empty(budget, dtype=torch.int64)
    left = torch.ones_like(norms)
    nearest = torch.full_like(norms, torch.inf)
    pick = norms.argmax()
    for step in range(budget):
        if step:
            pick = _draw(nearest * left, left, draws[step])
        taken[step] = pick
        left[pick] = 0
        nearest = nearest.minimum(squared_distances_from(points, pick, norms))
    return taken


def _draw(weights: Tensor, left: Tensor, draw: Tensor) -> Tensor:
    """Return the position where the running sum of weights passes draw · total."""
    total = weights.sum()
    sums = torch.where(total > 0, weights, left).cumsum(0)
    start = torch.where(total > 0, draw * sums[-1], 0)
    passed = torch.searchsorted(sums, start, right=True)
    # Rounding may put the target at the very end: the last positive weight is there.
    return passed.minimum(torch.searchsorted(sums, sums[-1]))
