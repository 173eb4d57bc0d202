"""Two opinions: the global and the local model, averaged or fused by rank.

The baselines of LoGo, "Re-thinking Federated Active Learning based on Inter-class
Diversity"
    SangMook Kim, Sangmin Bae, Hwanjun Song and Se-Young Yun. CVPR 2023, arXiv
    2303.12317.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.gradient_embedding import (
    MeanOuterProducts,
    hypothetical_gradients,
)
from fairfal_flwr.query.k_means_plus_plus import k_means_plus_plus
from fairfal_flwr.query.measures import entropies
from fairfal_flwr.query.options import Flavor, Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import take_top, top

__all__ = ["ensemble_logit", "ensemble_rank", "reciprocal_rank_scores"]


@strategy("ensemble-logit", models=("global", "local"))
def ensemble_logit(
    context: QueryContext, budget: int, *, flavor: Flavor = "entropy"
) -> Selection:
    """Average both models, then choose.

    Parameters
    ----------
    context : QueryContext
        Needs both models' outputs on the pool.
    budget : int
        Samples to choose.
    flavor : {"entropy", "badge"}
        What is averaged over the models: `entropy` the class probabilities, as the
        published code does in spite of the name; `badge` the gradient embeddings.
    """
    outputs = [context.outputs("global", "pool"), context.outputs("local", "pool")]
    if flavor == "entropy":
        mean = torch.stack([output.probs for output in outputs]).mean(dim=0)
        return take_top(entropies(mean), budget)
    points = MeanOuterProducts(tuple(map(hypothetical_gradients, outputs)))
    return Selection(k_means_plus_plus(points, budget, generator=context.generator))


@strategy("ensemble-rank", models=("global", "local"))
def ensemble_rank(
    context: QueryContext,
    budget: int,
    *,
    flavor: Flavor = "entropy",
    rank_constant: Annotated[int, Range(ge=1)] = 20,
) -> Selection:
    """Let each model list its favorites, then fuse the lists by reciprocal rank.

    Parameters
    ----------
    context : QueryContext
        Needs both models' outputs on the pool.
    budget : int
        Samples to choose, and the length of each list.
    flavor : {"entropy", "badge"}
        How a model orders its list: by `entropy`, or as `badge` draws.
    rank_constant : int
        A sample of rank r, from 0, on a list scores 1 / (this + r).
    """
    models: tuple[Model, Model] = ("global", "local")
    lists = [_favorites(context, model, budget, flavor) for model in models]
    scores = reciprocal_rank_scores(lists, context.pool_size, constant=rank_constant)
    return take_top(scores, budget)


def reciprocal_rank_scores(
    lists: Sequence[Tensor], pool_size: int, *, constant: int
) -> Tensor:
    """Return Σ over the lists that hold a sample of 1 / (constant + rank).

    Parameters
    ----------
    lists : sequence of Tensor, each of int64
        Distinct positions, the most wanted first; ranks count from 0.
    pool_size : int
        N.
    constant : int
        The larger, the less the head of a list counts.

    Returns
    -------
    Tensor, shape (N,)
        0 for a sample on no list.

    Examples
    --------
    >>> lists = torch.tensor([0, 1, 2]), torch.tensor([1, 3, 0])
    >>> reciprocal_rank_scores(lists, 4, constant=20)
    tensor([0.0955, 0.0976, 0.0455, 0.0476])
    """
    scores = torch.zeros(pool_size, device=lists[0].device)
    for positions in lists:
        ranks = torch.arange(len(positions), device=scores.device)
        scores[positions] += 1 / (constant + ranks)
    return scores


def _favorites(
    context: QueryContext, model: Model, budget: int, flavor: Flavor
) -> Tensor:
    outputs = context.outputs(model, "pool")
    if flavor == "entropy":
        return top(entropies(outputs.probs), budget)
    points = hypothetical_gradients(outputs)
    return k_means_plus_plus(points, budget, generator=context.generator)
