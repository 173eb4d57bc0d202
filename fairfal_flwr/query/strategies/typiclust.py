"""TypiClust: the most typical sample of the clusters that no label covers yet.

Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets
    Guy Hacohen, Avihu Dekel and Daphna Weinshall. ICML 2022, arXiv 2202.02794.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fairfal_flwr.kinds import Quirks
from fairfal_flwr.query.clusters import k_means
from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import rank_within

__all__ = ["typicalities", "typiclust"]

CHUNK = 2**22  # distances held at once: 16 MiB


@strategy("typiclust")
def typiclust(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    max_clusters: Annotated[int, Range(ge=1)] = 500,
    min_cluster_size: Annotated[int, Range(ge=1)] = 5,
    num_neighbors: Annotated[int, Range(ge=1)] = 20,
    quirks: Quirks = "faithful",
) -> Selection:
    """Take the most typical sample of each cluster, uncovered and large ones first.

    Parameters
    ----------
    context : QueryContext
        Needs one model's outputs on both splits.
    budget : int
        Samples to choose.
    model : str
        Whose normalized features are clustered. The paper takes features of
        self-supervised training, which no client has here.
    max_clusters : int
        Most clusters of labeled and unlabeled samples; there is one for each label and
        for each sample to choose.
    min_cluster_size : int
        Small clusters come last, see `quirks`.
    num_neighbors : int
        Neighbors in the cluster whose nearness makes a sample typical (K).
    quirks : {"faithful", "corrected"}
        `faithful` is the published code: squared distances to at most half of the
        cluster, sizes count labeled samples too, and a cluster of `min_cluster_size` is
        small; `corrected`: distances to at most all others, sizes count what can be
        chosen, and only fewer are small.

    Notes
    -----
    Clusters are visited in turn: fewest labeled samples first, then the largest; each
    visit takes the most typical sample that is left. Typicality is measured once,
    among the unlabeled samples of the cluster.
    """
    choice = choose_model(context, model)
    pool = normalize(context.outputs(choice.model, "pool").features)
    labeled = normalize(context.outputs(choice.model, "labeled").features)
    num_clusters = min(len(labeled) + budget, max_clusters, len(labeled) + len(pool))
    clusters = k_means(
        torch.cat([pool, labeled]), num_clusters, generator=context.generator
    ).labels
    of_pool, of_labeled = clusters[: len(pool)], clusters[len(pool) :]
    scores = typicalities(pool, of_pool, num_neighbors, quirks=quirks)
    ranks = rank_within(of_pool, scores)
    covered = of_labeled.bincount(minlength=num_clusters)
    if quirks == "faithful":
        sizes = clusters.bincount(minlength=num_clusters)
        small = (sizes <= min_cluster_size).long()
    else:
        sizes = of_pool.bincount(minlength=num_clusters)
        small = (sizes < min_cluster_size).long()
    # Stable sorts, the least important key first.
    order = torch.arange(len(pool), device=pool.device)
    for key in (of_pool, -sizes[of_pool], covered[of_pool], ranks, small[of_pool]):
        order = order[key[order].argsort(stable=True)]
    chosen = order[:budget]
    return Selection(chosen, scores=scores[chosen], notes=choice.notes)


def typicalities(
    points: Tensor, clusters: Tensor, num_neighbors: int, *, quirks: Quirks
) -> Tensor:
    """Return 1 / the mean distance to the nearest neighbors in the cluster.

    Parameters
    ----------
    points : Tensor, shape (N, D)
        The points.
    clusters : Tensor, shape (N,), int64
        Their clusters.
    num_neighbors : int
        K; a smaller cluster of n gives n // 2 if `faithful`, else its n − 1 others.
    quirks : {"faithful", "corrected"}
        `faithful` takes the mean of squared distances.

    Returns
    -------
    Tensor, shape (N,)
        Above 0; a lone point is not typical of anything: 0.
    """
    result = torch.zeros_like(points[:, 0])
    for cluster in clusters.bincount().nonzero().flatten().tolist():
        members = (clusters == cluster).nonzero().flatten()
        others = len(members) // 2 if quirks == "faithful" else len(members) - 1
        k = min(num_neighbors, others)
        if not k:
            continue
        own = points[members]
        for rows in torch.split(members, max(1, CHUNK // len(members))):
            distances = torch.cdist(points[rows], own)
            # The nearest is the point itself, at distance 0.
            nearest = distances.topk(k + 1, dim=1, largest=False).values
            if quirks == "faithful":
                nearest = nearest.square()
            result[rows] = 1 / (nearest.sum(dim=1) / k).clamp(min=1e-12)
    return result
