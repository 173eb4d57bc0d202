"""IFAL: samples on which models and their neighborhoods contradict each other.

Inconsistency-Based Federated Active Learning
    Chen-Chen Zong, Tong Jin and Sheng-Jun Huang. IJCAI 2025.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fairfal_flwr.kinds import Quirks
from fairfal_flwr.query.clusters import k_means, nearest_members
from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.otsu import otsu_threshold
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up, take_top, top

__all__ = ["distribution_distance", "ifal", "inter_model", "reverse_neighbor_probs"]

CHUNK = 2**22  # similarities held at once: 16 MiB


@strategy("ifal", models=("global", "local-last", "distilled"))
def ifal(
    context: QueryContext,
    budget: int,
    *,
    num_neighbors: Annotated[int, Range(ge=1)] = 250,
    num_starts: Annotated[int, Range(ge=1)] = 10,
    quirks: Quirks = "faithful",
) -> Selection:
    """Cluster the inconsistent samples, take one of each cluster.

    U = U1 · U2; the candidates are what lies above Otsu's threshold of U, or of U1
    where these are fewer than the budget; k-means on the local model's normalized
    features. Fewer candidates than the budget even so: the largest U.

    Parameters
    ----------
    context : QueryContext
        Needs labels, and the outputs of "global", "local-last" and "distilled" on both
        splits.
    budget : int
        Samples to choose.
    num_neighbors : int
        Nearest neighbors of each sample, labeled or not, among the others of the pool;
        a smaller pool gives all of them.
    num_starts : int
        Runs of k-means of which the best is kept; 10 were scikit-learn's default when
        the published code was run.
    quirks : {"faithful", "corrected"}
        The distance between two distributions: `faithful` compares them sorted, blind
        to which class is which, as the published code does; `corrected` is the total
        variation.

    Raises
    ------
    ValueError
        If every label is missing.
    """
    context.require_labels("IFAL")
    inter, intra = inconsistencies(context, num_neighbors, quirks)
    scores = inter * intra
    candidates = _above_threshold(scores)
    if len(candidates) < budget:
        candidates = _above_threshold(inter)
    if len(candidates) < budget:
        return take_top(scores, budget)
    features = context.outputs("local-last", "pool").features
    directions = normalize(features[candidates])
    clusters = k_means(
        directions, budget, generator=context.generator, num_starts=num_starts
    )
    chosen = candidates[nearest_members(directions, clusters)]
    chosen = fill_up(chosen, top(scores, context.pool_size), budget)
    return Selection(chosen, scores=scores[chosen])


def inconsistencies(
    context: QueryContext, num_neighbors: int, quirks: Quirks
) -> tuple[Tensor, Tensor]:
    """Return U1 and U2 of every pool sample, shape (N,) each.

    With q^φ_ℓ from the features of model φ and the labels of model ℓ (true ones where
    known), U1 = `inter_model` (D_ll, D_gl) where D_ll = W(q^L_G, q^D_G) and
    D_gl = W(q^G_G, q^D_G), and U2 = W(q^L_L, p^L).
    """
    num_classes = context.num_classes

    def nodes(model: Model) -> Tensor:
        """Return unit features, the pool's first."""
        pool, labeled = (
            context.outputs(model, "pool"),
            context.outputs(model, "labeled"),
        )
        return normalize(torch.cat([pool.features, labeled.features]))

    def classes(model: Model) -> Tensor:
        """Return the model's classes of the pool, then the true ones."""
        predicted = context.outputs(model, "pool").probs.argmax(dim=1)
        return torch.cat([predicted, context.labels])

    def neighbor_probs(model: Model, *labels: Tensor) -> list[Tensor]:
        return reverse_neighbor_probs(
            nodes(model), labels, context.pool_size, num_classes, num_neighbors
        )

    server, client = classes("global"), classes("local-last")
    (q_gg,) = neighbor_probs("global", server)
    q_lg, q_ll = neighbor_probs("local-last", server, client)
    (q_dg,) = neighbor_probs("distilled", server)
    p_l = context.outputs("local-last", "pool").probs
    inter = inter_model(
        distribution_distance(q_lg, q_dg, quirks=quirks),
        distribution_distance(q_gg, q_dg, quirks=quirks),
    )
    return inter, distribution_distance(q_ll, p_l, quirks=quirks)


def inter_model(local: Tensor, server: Tensor) -> Tensor:
    """Return U1 = max(D_gl/(D_ll+ε), D_ll/(D_gl+ε)) · (D_ll + D_gl), ε = 1e-5.

    Parameters
    ----------
    local, server : Tensor, shape (N,)
        D_ll and D_gl: how far the distilled model is from the local and the global one.

    Returns
    -------
    Tensor, shape (N,)
        Large where it is near to one of them and far from the other.
    """
    ratio = torch.maximum(server / (local + 1e-5), local / (server + 1e-5))
    return ratio * (local + server)


def reverse_neighbor_probs(
    nodes: Tensor,
    labels: Sequence[Tensor],
    pool_size: int,
    num_classes: int,
    num_neighbors: int,
) -> list[Tensor]:
    """Return q(x), the labels of those that have x among their nearest in the pool.

    q_c(x) ∝ 1 + #{z of class c that has x among its k most cosine-similar samples of
    the pool, itself left out}.

    Parameters
    ----------
    nodes : Tensor, shape (N + M, D)
        Unit features, the pool's first.
    labels : sequence of Tensor, each of shape (N + M,), int64
        One or more labelings of the nodes; the neighbors are looked up once for all.
    pool_size : int
        N.
    num_classes : int
        C.
    num_neighbors : int
        k; a smaller pool gives all its N − 1 others.

    Returns
    -------
    list of Tensor, each of shape (N, C)
        One for each labeling; rows sum to 1. Similarities are held in chunks.
    """
    pool = nodes[:pool_size]
    k = min(num_neighbors, pool_size - 1)
    counts = [nodes.new_ones(pool_size * num_classes) for _ in labels]
    size = max(1, CHUNK // pool_size)
    for start in range(0, len(nodes), size):
        similarities = nodes[start : start + size] @ pool.T
        if start < pool_size:
            similarities.diagonal(start).fill_(-torch.inf)
        neighbors = similarities.topk(k, dim=1).indices
        for total, classes in zip(counts, labels, strict=True):
            cells = neighbors * num_classes + classes[start : start + size, None]
            total += cells.flatten().bincount(minlength=len(total))
    tables = [total.view(pool_size, num_classes) for total in counts]
    return [table / table.sum(dim=1, keepdim=True) for table in tables]


def distribution_distance(a: Tensor, b: Tensor, *, quirks: Quirks) -> Tensor:
    """Return W(a, b) of each pair of rows.

    Parameters
    ----------
    a, b : Tensor, shape (N, C)
        Distributions over classes.
    quirks : {"faithful", "corrected"}
        "faithful" is the 1-D Wasserstein distance of the two vectors taken as samples,
        as published, mean_c |sort(a) − sort(b)|_c: blind to which class is which.
        "corrected" is the total variation, ½ Σ_c |a − b|_c: the Wasserstein distance
        where any two classes are 1 apart.

    Returns
    -------
    Tensor, shape (N,)
        In [0, 1].

    Examples
    --------
    >>> a, b = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.2, 0.7]])
    >>> distribution_distance(a, b, quirks="faithful")
    tensor([0.])
    >>> distribution_distance(a, b, quirks="corrected")
    tensor([0.6000])
    """
    if quirks == "corrected":
        return 0.5 * (a - b).abs().sum(dim=1)
    return (a.sort(dim=1).values - b.sort(dim=1).values).abs().mean(dim=1)


def _above_threshold(scores: Tensor) -> Tensor:
    return (scores > otsu_threshold(scores)).nonzero().flatten()
