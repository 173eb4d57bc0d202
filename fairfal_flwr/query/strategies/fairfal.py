"""FairFAL: class-fair federated active learning.

Federated Active Learning Under Extreme Non-IID and Global Class Imbalance
    Chen-Chen Zong and Sheng-Jun Huang. CVPR 2026, arXiv 2603.10341.

Choose the model that judges uncertainty; guess classes with prototypes of the global
model; divide the budget evenly among the guessed classes; in each, spread the budget
over the most uncertain samples.
"""

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.gradient_embedding import OuterProducts, gradient_embedding
from fairfal_flwr.query.k_center import k_center_greedy
from fairfal_flwr.query.measures import normalized_entropies
from fairfal_flwr.query.model_choice import ADAPTIVE, Adaptive, choose_model
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.prototypes import class_prototypes, pseudo_labels
from fairfal_flwr.query.quota import class_quotas
from fairfal_flwr.query.registry import strategy

__all__ = [
    "cover_classes",
    "fairfal",
    "gradient_embeddings",
    "guess_classes",
    "uncertain_candidates",
]


def _models(
    *, model: str, prototypes: str, k_center: bool, gradient_model: str, **_: Any
) -> tuple[Model, ...]:
    gradients = gradient_model if k_center else "global"
    named = {"global", model, prototypes, gradients}
    return ("global", "local") if named != {"global"} else ("global",)


def _needs_imbalance(
    *, model: str, k_center: bool, gradient_model: str, **_: Any
) -> bool:
    return model in ADAPTIVE or (k_center and gradient_model == "auto")


@strategy("fairfal", models=_models, needs_imbalance=_needs_imbalance)
def fairfal(
    context: QueryContext,
    budget: int,
    *,
    model: Adaptive | Literal["global", "local"] = "adaptive",
    prototypes: Literal["global", "local"] = "global",
    candidates: bool = True,
    candidate_factor: Annotated[float, Range(ge=1)] = 4.0,
    k_center: bool = True,
    gradient_model: Literal["auto", "global"] = "auto",
    gradient_threshold: Annotated[float, Range(ge=0, le=1)] = 0.5,
) -> Selection:
    """Query as FairFAL does (method §3–5); the options are the paper's ablations.

    Parameters
    ----------
    context : QueryContext
        Needs `global_imbalance` and at least one labeled sample.
    budget : int
        Samples to choose.
    model : {"adaptive", "adaptive-reversed", "global", "local"}
        Whose entropy is the uncertainty; `adaptive` chooses by the rule of the context,
        `adaptive-reversed` takes the other one.
    prototypes : {"global", "local"}
        Whose features give the prototypes and the pseudo-labels.
    candidates : bool
        Whether k-center chooses among uncertain candidates alone; false leaves this
        stage out, and it chooses among all that are pseudo-labeled as the class.
    candidate_factor : float
        Uncertain candidates per class, as a multiple of the class's quota (κ).
    k_center : bool
        Whether k-center chooses among the candidates; false leaves this stage out and
        takes the most uncertain of each class.
    gradient_model : {"auto", "global"}
        Whose softmax enters the gradient embedding: `auto` the global model's where the
        mean imbalance γ̄ is below the gradient threshold, else the local one's (the
        paper's code); `global` always the global model's (the paper's text).
    gradient_threshold : float
        The mean imbalance from which on an `auto` gradient model is the local one.

    Returns
    -------
    Selection
        Class by class; the suggestions are the pseudo-labels, the scores the normalized
        entropies, the notes those of an adaptive choice.

    Raises
    ------
    ValueError
        If the mean imbalance or every label is missing.
    """
    context.require_labels("FairFAL")
    choice = choose_model(context, model)
    pseudo = guess_classes(context, prototypes)
    quotas = class_quotas(pseudo.bincount(minlength=context.num_classes).cpu(), budget)
    uncertainty = normalized_entropies(context.outputs(choice.model, "pool").probs)
    factor = candidate_factor if candidates else math.inf
    by_class = {
        class_index: uncertain_candidates(
            uncertainty,
            (pseudo == class_index).nonzero().flatten(),
            int(quotas[class_index]),
            factor=factor if k_center else 1,
        )
        for class_index in quotas.nonzero().flatten().tolist()
    }
    if k_center:
        embedder = _gradient_model(context, gradient_model, gradient_threshold)
        pool, labeled = gradient_embeddings(context, embedder)
        by_class = cover_classes(by_class, quotas, pool, labeled, context.labels)
    positions = torch.cat(list(by_class.values()))
    return Selection(
        positions,
        suggestions=pseudo[positions],
        notes=choice.notes,
        scores=uncertainty[positions],
    )


def guess_classes(
    context: QueryContext, model: Literal["global", "local"] = "global"
) -> Tensor:
    """Return the pool's pseudo-labels by one model's prototypes (method §4).

    Returns
    -------
    Tensor, shape (N,), int64
        Only classes that the client has a labeled sample of.
    """
    prototypes = class_prototypes(
        context.outputs(model, "labeled").features, context.labels, context.num_classes
    )
    sizes = context.labels.bincount(minlength=context.num_classes)
    present = sizes.nonzero().flatten()
    return pseudo_labels(context.outputs(model, "pool").features, prototypes, present)


def uncertain_candidates(
    uncertainty: Tensor, members: Tensor, quota: int, *, factor: float
) -> Tensor:
    """Return the min(n, max(1, ⌊κ·quota⌋)) most uncertain members (method §5.2).

    Parameters
    ----------
    uncertainty : Tensor, shape (N,)
        Of every pool sample.
    members : Tensor, shape (n,), int64
        Ascending positions of one class in the pool.
    quota : int
        Samples to take of the class, at least 1.
    factor : float
        κ; infinite takes all members.

    Returns
    -------
    Tensor, shape (min(n, max(1, ⌊κ·quota⌋)),), int64
        Positions in the pool, the most uncertain first, of equals the lowest.
    """
    count = max(1, math.floor(min(factor * quota, len(members))))
    order = uncertainty[members].argsort(descending=True, stable=True)
    return members[order[:count]]


def gradient_embeddings(
    context: QueryContext, model: Model
) -> tuple[OuterProducts, OuterProducts]:
    """Return the pool's and the labels' embeddings (method §5.3).

    Parameters
    ----------
    context : QueryContext
        The features are the global model's.
    model : {"global", "local"}
        The softmax p is this model's.

    Returns
    -------
    pool, labeled : OuterProducts
        N and M points; y is argmax p for the pool and the true class for the labels.
    """
    pool = context.outputs("global", "pool").features
    labeled = context.outputs("global", "labeled").features
    pool_probs = context.outputs(model, "pool").probs
    labeled_probs = context.outputs(model, "labeled").probs
    return (
        gradient_embedding(pool_probs, pool, pool_probs.argmax(dim=1)),
        gradient_embedding(labeled_probs, labeled, context.labels),
    )


def cover_classes(
    candidates: dict[int, Tensor],
    quotas: Tensor,
    pool: OuterProducts,
    labeled: OuterProducts,
    labels: Tensor,
) -> dict[int, Tensor]:
    """Reduce each class's candidates to its quota by k-center (method §5.3).

    Parameters
    ----------
    candidates : dict of int to Tensor
        By class, positions in the pool, the most uncertain first.
    quotas : Tensor, shape (C,), int64
        Candidates that are no more than the quota are all taken.
    pool, labeled : OuterProducts
        From `gradient_embeddings`; the labeled ones of a class are its anchors.
    labels : Tensor, shape (M,), int64
        Classes of `labeled`.

    Returns
    -------
    dict of int to Tensor
        By class, positions in the pool.
    """
    chosen = {}
    for class_index, members in candidates.items():
        quota = int(quotas[class_index])
        if len(members) > quota:
            anchors = labeled[labels == class_index]
            members = members[k_center_greedy(pool[members], quota, anchors=anchors)]
        chosen[class_index] = members
    return chosen


def _gradient_model(context: QueryContext, option: str, threshold: float) -> Model:
    if option == "global":
        return "global"
    if context.global_imbalance is None:
        raise ValueError("`gradient_model` 'auto' needs the campaign's mean imbalance.")
    return "global" if context.global_imbalance < threshold else "local"
