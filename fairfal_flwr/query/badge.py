"""BADGE: diverse samples of large gradients, by k-means++ on gradient embeddings.

Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds
    Jordan T. Ash, Chicheng Zhang, Akshay Krishnamurthy, John Langford and Alekh
    Agarwal. ICLR 2020, arXiv 1906.03671.
"""

import torch
from torch import Generator, Tensor

from fairfal_flwr.query.context import Outputs, QueryContext, Selection
from fairfal_flwr.query.gradient_embedding import (
    OuterProducts,
    Points,
    gradient_embedding,
)
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy

__all__ = ["badge", "hypothetical_gradients", "k_means_plus_plus"]


@strategy("badge")
def badge(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Seed a k-means++ on the gradients that the predicted labels would give.

    The first is the sample of the largest gradient; see `k_means_plus_plus`.
    """
    choice = choose_model(context, model)
    points = hypothetical_gradients(context.outputs(choice.model, "pool"))
    picks = k_means_plus_plus(points, budget, generator=context.generator)
    return Selection(picks, notes=choice.notes)


def hypothetical_gradients(outputs: Outputs) -> OuterProducts:
    """Return (onehot(ŷ) − p) ⊗ h with ŷ = argmax p (section 3), factored.

    Its sign is opposite to the gradient's, which no distance sees.
    """
    predicted = outputs.probs.argmax(dim=1)
    return gradient_embedding(outputs.probs, outputs.features, predicted)


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
        inner = points.inner_products(points[pick[None]])[:, 0]
        distances = (norms + norms[pick] - 2 * inner).clamp_(min=0)
        nearest = torch.minimum(nearest, distances)
    return taken


def _draw(weights: Tensor, left: Tensor, draw: Tensor) -> Tensor:
    """Return the position where the running sum of weights passes draw · total."""
    total = weights.sum()
    sums = torch.where(total > 0, weights, left).cumsum(0)
    start = torch.where(total > 0, draw * sums[-1], 0)
    passed = torch.searchsorted(sums, start, right=True)
    # Rounding may put the target at the very end: the last positive weight is there.
    return passed.minimum(torch.searchsorted(sums, sums[-1]))
