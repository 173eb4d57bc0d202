"""FairFAL: class-fair federated active learning.

Federated Active Learning Under Extreme Non-IID and Global Class Imbalance
    Chen-Chen Zong and Sheng-Jun Huang. CVPR 2026, arXiv 2603.10341.

Choose the model that judges uncertainty; guess classes with prototypes of the global
model; divide the budget evenly among the guessed classes; in each, spread the budget
over the most uncertain samples.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.gradient_embedding import OuterProducts, gradient_embedding
from fairfal_flwr.query.kcenter import k_center_greedy
from fairfal_flwr.query.model_choice import (
    balanced_counts,
    balanced_mean,
    divergence,
    global_model_score,
)
from fairfal_flwr.query.prototypes import class_prototypes, pseudo_labels
from fairfal_flwr.query.quota import class_quotas
from fairfal_flwr.query.registry import strategy

__all__ = ["fairfal", "normalized_entropy", "uncertain_candidates"]


@strategy("fairfal", models=("global", "local"), needs_imbalance=True)
def fairfal(
    context: QueryContext,
    budget: int,
    *,
    threshold: float = 0.75,
    candidate_factor: float = 4.0,
    gradient_model: Literal["auto", "global"] = "auto",
    gradient_threshold: float = 0.5,
    balance_seed: int = 42,
) -> Selection:
    """Query as FairFAL does (METHOD §3–5).

    Parameters
    ----------
    context : QueryContext
        Needs `global_imbalance` and at least one labeled sample.
    budget : int
        Samples to choose.
    threshold : float, default 0.75
        δ: the global model judges uncertainty where its score exceeds this.
    candidate_factor : float, default 4
        κ: candidates per class, as a multiple of its quota.
    gradient_model : {"auto", "global"}
        Whose softmax enters the gradient embedding; "auto" is the global model's where
        γ̄ < `gradient_threshold`, else the local one's.
    gradient_threshold : float, default 0.5
        See `gradient_model`.
    balance_seed : int, default 42
        Seed of the balanced subset.

    Returns
    -------
    Selection
        Class by class; the suggestions are the pseudo-labels, the notes hold
        `divergence`, `score` and `global-query` (1 if the global model judged).

    Raises
    ------
    ValueError
        If the mean imbalance or every label is missing.
    """
    if context.global_imbalance is None:
        raise ValueError("FairFAL needs the campaign's mean imbalance.")
    if not len(context.labels):
        raise ValueError("FairFAL needs at least one labeled sample.")
    labels = context.labels
    counts = balanced_counts(labels, context.num_classes, seed=balance_seed)
    global_mean, local_mean = (
        balanced_mean(context.outputs(model, "labeled").probs, counts)
        for model in ("global", "local")
    )
    d = divergence(global_mean, local_mean)
    score = global_model_score(d, context.global_imbalance)
    judge: Model = "global" if score > threshold else "local"

    prototypes = class_prototypes(
        context.outputs("global", "labeled").features, labels, context.num_classes
    )
    present = labels.bincount(minlength=context.num_classes).nonzero().flatten()
    pseudo = pseudo_labels(
        context.outputs("global", "pool").features, prototypes, present
    )
    quotas = class_quotas(pseudo.bincount(minlength=context.num_classes).cpu(), budget)

    uncertainty = normalized_entropy(context.outputs(judge, "pool").probs)
    balanced = context.global_imbalance < gradient_threshold
    embedder: Model = "global" if balanced or gradient_model == "global" else "local"
    pool, labeled = _gradient_embeddings(context, embedder)

    chosen = []
    for class_index in quotas.nonzero().flatten().tolist():
        quota = int(quotas[class_index])
        members = (pseudo == class_index).nonzero().flatten()
        candidates = uncertain_candidates(
            uncertainty, members, quota, factor=candidate_factor
        )
        if len(candidates) > quota:
            anchors = labeled[labels == class_index]
            picks = k_center_greedy(pool[candidates], quota, anchors=anchors)
            candidates = candidates[picks]
        chosen.append(candidates)
    positions = torch.cat(chosen)
    return Selection(
        positions,
        suggestions=pseudo[positions],
        notes={
            "divergence": d,
            "score": score,
            "global-query": float(judge == "global"),
        },
    )


def normalized_entropy(probs: Tensor) -> Tensor:
    """Return H(p) / log C, the entropy as a fraction of its maximum (METHOD §5.2).

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Class probabilities; 0 log 0 is 0.

    Returns
    -------
    Tensor, shape (N,)
        In [0, 1].

    Examples
    --------
    >>> normalized_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0., 1.])
    """
    entropy: Tensor = torch.special.entr(probs).sum(dim=1)
    return entropy / math.log(probs.shape[1])


def uncertain_candidates(
    uncertainty: Tensor, members: Tensor, quota: int, *, factor: float
) -> Tensor:
    """Return the min(n, max(1, ⌊κ·quota⌋)) most uncertain members (METHOD §5.2).

    Parameters
    ----------
    uncertainty : Tensor, shape (N,)
        Of every pool sample.
    members : Tensor, shape (n,), int64
        Ascending positions of one class in the pool.
    quota : int
        Samples to take of the class.
    factor : float
        κ.

    Returns
    -------
    Tensor, shape (min(n, max(1, ⌊κ·quota⌋)),), int64
        Positions in the pool, the most uncertain first, of equals the lowest.
    """
    count = max(1, math.floor(factor * quota))
    order = uncertainty[members].argsort(descending=True, stable=True)
    return members[order[:count]]


def _gradient_embeddings(
    context: QueryContext, model: Model
) -> tuple[OuterProducts, OuterProducts]:
    """Return the pool's and the labels' embeddings: global features, `model`'s p."""
    pool = context.outputs("global", "pool").features
    labeled = context.outputs("global", "labeled").features
    pool_probs = context.outputs(model, "pool").probs
    labeled_probs = context.outputs(model, "labeled").probs
    return (
        gradient_embedding(pool_probs, pool, pool_probs.argmax(dim=1)),
        gradient_embedding(labeled_probs, labeled, context.labels),
    )
