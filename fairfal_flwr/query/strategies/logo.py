"""LoGo: clusters by the local model's gradients, the global model's doubt in each.

Re-thinking Federated Active Learning based on Inter-class Diversity
    SangMook Kim, Sangmin Bae, Hwanjun Song and Se-Young Yun. CVPR 2023, arXiv
    2303.12317.
"""

from typing import Annotated

import torch
from torch import Tensor

from fairfal_flwr.query.clusters import k_means
from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.measures import entropies
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import rank_within

__all__ = ["best_of_each_cluster", "logo"]


@strategy("logo", models=("global", "local"))
def logo(
    context: QueryContext,
    budget: int,
    *,
    num_starts: Annotated[int, Range(ge=1)] = 10,
) -> Selection:
    """Macro step, then micro step.

    Macro: k-means with k = b on (1 − p_ŷ) · h of the local model, the block of the
    gradient embedding that belongs to the predicted class. Micro: in each cluster the
    sample of the largest entropy under the global model.

    Parameters
    ----------
    context : QueryContext
        Needs both models' outputs on the pool.
    budget : int
        Number of clusters.
    num_starts : int
        Runs of k-means of which the best is kept; 10 were scikit-learn's default when
        the published code was run.
    """
    local = context.outputs("local", "pool")
    doubt = 1 - local.probs.amax(dim=1, keepdim=True)
    clusters = k_means(
        doubt * local.features,
        budget,
        generator=context.generator,
        num_starts=num_starts,
    )
    scores = entropies(context.outputs("global", "pool").probs)
    chosen = best_of_each_cluster(clusters.labels, scores, budget)
    return Selection(chosen, scores=scores[chosen])


def best_of_each_cluster(clusters: Tensor, scores: Tensor, budget: int) -> Tensor:
    """Return the best of each cluster, then more of each up to the budget.

    With n clusters that have members and b − n still missing, clusters are walked in
    order, each giving its next ⌈(b − n) / n⌉ ranks, again and again.

    Parameters
    ----------
    clusters : Tensor, shape (N,), int64
        At most `budget` different ones.
    scores : Tensor, shape (N,)
        Larger is better.
    budget : int
        At most N.

    Returns
    -------
    Tensor, shape (budget,), int64

    Examples
    --------
    >>> clusters = torch.tensor([0, 0, 0, 2])
    >>> best_of_each_cluster(clusters, torch.tensor([0.1, 0.3, 0.2, 0.0]), 3)
    tensor([1, 3, 2])
    """
    ranks = rank_within(clusters, scores)
    num_clusters = int((ranks == 0).sum())
    missing = budget - num_clusters
    step = max(1, -(-missing // num_clusters))
    walk = torch.where(ranks == 0, -1, (ranks - 1) // step)
    # Sorted by walk, then cluster, then rank: stable sorts, the last key first. No two
    # of a cluster have one rank.
    order = ranks.argsort()
    order = order[clusters[order].argsort(stable=True)]
    return order[walk[order].argsort(stable=True)][:budget]
