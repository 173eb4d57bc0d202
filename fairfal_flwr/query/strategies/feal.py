"""FEAL: samples whose evidence is thin for both models, and that differ.

Think Twice Before Selection: Federated Evidential Active Learning for Medical Image
Analysis with Domain Shifts
    Jiayi Chen, Benteng Ma, Hengfei Cui and Yong Xia. CVPR 2024, arXiv 2312.02567.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.measures import scaled
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up, top

__all__ = [
    "crowds",
    "data_uncertainty",
    "dirichlet_entropy",
    "dirichlet_parameters",
    "feal",
    "relaxed_walk",
]

CHUNK = 2**22  # similarities held at once: 16 MiB


@strategy("feal", models=("global", "local-last"))
def feal(
    context: QueryContext,
    budget: int,
    *,
    num_neighbors: Annotated[int, Range(ge=1)] = 5,
    similarity: Annotated[float, Range(ge=-1, le=1)] = 0.85,
) -> Selection:
    """Take the largest calibrated uncertainty, walking past crowds already sampled.

    The score is e · (u_G + u_L): the data uncertainty of both models, calibrated by the
    distributional uncertainty e of the global one, scaled to [0, 1] over the pool.

    Parameters
    ----------
    context : QueryContext
        Needs the outputs of "global" and "local-last" on the pool, and their networks.
    budget : int
        Samples to choose.
    num_neighbors : int
        A sample with so many near neighbors in the pool is skipped where one of the
        nearest so many is chosen (n).
    similarity : float
        Neighbors are near above this cosine of the local model's features (τ).

    Notes
    -----
    Made for networks that are trained with `train.objective = "evidential"`. What the
    walk leaves open is filled by score.
    """
    server, client = (evidence(context, model) for model in ("global", "local-last"))
    calibration = scaled(dirichlet_entropy(server))
    scores = calibration * (data_uncertainty(server) + data_uncertainty(client))
    features = context.outputs("local-last", "pool").features
    neighbors, crowded = crowds(normalize(features), num_neighbors, similarity)
    ranking = top(scores, len(scores))
    chosen = fill_up(relaxed_walk(ranking, neighbors, crowded, budget), ranking, budget)
    return Selection(chosen, scores=scores[chosen])


def evidence(context: QueryContext, model: Model) -> Tensor:
    """Return the `dirichlet_parameters` of the pool under one model."""
    head = context.network(model).head
    bias = None if head.bias is None else head.bias.detach()
    features = context.outputs(model, "pool").features
    return dirichlet_parameters(linear(features, head.weight.detach(), bias))


def dirichlet_parameters(logits: Tensor) -> Tensor:
    """Return α = ReLU(z) + 1: each class's evidence, and one more (section 3.2).

    Parameters
    ----------
    logits : Tensor, shape (N, C)
        z.

    Returns
    -------
    Tensor, shape (N, C)
        At least 1.

    Examples
    --------
    >>> dirichlet_parameters(torch.tensor([[-2.0, 0.0, 3.0]]))
    tensor([[1., 1., 4.]])
    """
    return logits.relu() + 1


def data_uncertainty(alpha: Tensor) -> Tensor:
    """Return u = Σ_c (α_c / S) (ψ(S + 1) − ψ(α_c + 1)), the expected entropy.

    Parameters
    ----------
    alpha : Tensor, shape (N, C)
        α, above 0; S = Σ_c α_c.

    Returns
    -------
    Tensor, shape (N,)
        In nats, in [0, log C]: the mean entropy of distributions from Dirichlet(α),
        which is aleatoric.

    Examples
    --------
    >>> data_uncertainty(torch.tensor([[1.0, 1.0]]))  # ψ(3) − ψ(2)
    tensor([0.5000])
    """
    total = alpha.sum(dim=1, keepdim=True)
    terms = torch.digamma(total + 1) - torch.digamma(alpha + 1)
    return (alpha / total * terms).sum(dim=1)


def dirichlet_entropy(alpha: Tensor) -> Tensor:
    """Return e = ln B(α) + (S − C) ψ(S) − Σ_c (α_c − 1) ψ(α_c).

    Parameters
    ----------
    alpha : Tensor, shape (N, C)
        α, above 0; S = Σ_c α_c, ln B(α) = Σ_c ln Γ(α_c) − ln Γ(S).

    Returns
    -------
    Tensor, shape (N,)
        In nats: the differential entropy of Dirichlet(α), largest where all α_c are 1,
        which is epistemic.

    Examples
    --------
    >>> dirichlet_entropy(torch.ones(1, 3))  # −ln 2, where the density is 2
    tensor([-0.6931])
    """
    total = alpha.sum(dim=1)
    log_beta = torch.lgamma(alpha).sum(dim=1) - torch.lgamma(total)
    spread = (total - alpha.shape[1]) * torch.digamma(total)
    return log_beta + spread - ((alpha - 1) * torch.digamma(alpha)).sum(dim=1)


def crowds(
    directions: Tensor, num_neighbors: int, similarity: float
) -> tuple[Tensor, Tensor]:
    """Return each sample's nearest others, and whether all of them are near.

    Parameters
    ----------
    directions : Tensor, shape (N, D)
        Unit features, or zeros.
    num_neighbors : int
        n; a pool of fewer others has no crowd.
    similarity : float
        τ: near is a cosine above it.

    Returns
    -------
    neighbors : Tensor, shape (N, min(n, N − 1)), int64
        Positions, the nearest first.
    crowded : Tensor, shape (N,), bool
        Whether n neighbors are near.
    """
    size = len(directions)
    k = min(num_neighbors, size - 1)
    neighbors, crowded = [], []
    step = max(1, CHUNK // size)
    for start in range(0, size, step):
        cosines = directions[start : start + step] @ directions.T
        cosines.diagonal(start).fill_(-torch.inf)
        nearest = cosines.topk(k, dim=1)
        neighbors.append(nearest.indices)
        crowded.append((nearest.values > similarity).sum(dim=1) == num_neighbors)
    return torch.cat(neighbors), torch.cat(crowded)


def relaxed_walk(
    ranking: Tensor, neighbors: Tensor, crowded: Tensor, budget: int
) -> Tensor:
    """Walk a ranking; skip who is in a crowd of which one is chosen already.

    Parameters
    ----------
    ranking : Tensor, shape (N,), int64
        Positions, the most wanted first.
    neighbors : Tensor, shape (N, k), int64
    crowded : Tensor, shape (N,), bool
        From `crowds`.
    budget : int
        Where to stop.

    Returns
    -------
    Tensor, shape (at most budget,), int64
        Distinct positions in the order of the walk.
    """
    neighbors, crowded = neighbors[ranking], crowded[ranking]
    passable = torch.ones_like(crowded)
    steps: list[Tensor] = []
    while len(steps) < budget and passable.any():
        step = passable.long().argmax()  # the first; who is before it was taken or not
        steps.append(step)
        passable &= ~(crowded & (neighbors == ranking[step]).any(dim=1))
        passable[step] = False
    return ranking[torch.stack(steps)]
