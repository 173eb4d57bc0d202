"""Which model queries: the adaptive choice of FairFAL.

Federated Active Learning Under Extreme Non-IID and Global Class Imbalance
    Chen-Chen Zong and Sheng-Jun Huang. CVPR 2026, arXiv 2603.10341.

A client compares the global model with its local one on a class-balanced view of its
labels. A skewed or an alien global model should not judge what is uncertain.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from fairfal_flwr.query.adaptive_rule import AdaptiveRule
from fairfal_flwr.query.context import Model, QueryContext

__all__ = [
    "ADAPTIVE",
    "Adaptive",
    "AdaptiveRule",
    "ModelChoice",
    "ModelOption",
    "adaptive_model",
    "balanced_counts",
    "balanced_mean",
    "choose_model",
    "divergence",
    "global_model_score",
    "imbalance",
    "models_of",
]

Adaptive = Literal["adaptive", "adaptive-reversed"]
ADAPTIVE: tuple[Adaptive, ...] = get_args(Adaptive)
ModelOption = Model | Adaptive


@dataclass(frozen=True)
class ModelChoice:
    """The model that a strategy goes by, and what it says about the choice.

    Parameters
    ----------
    model : {"global", "local", "local-last", "finetuned", "distilled"}
        The model.
    notes : Mapping[str, float]
        For `Selection.notes`: what an adaptive choice went by, `divergence` and
        `score`, and `global-query`, 1 where it fell on the global model. A model that
        was fixed beforehand leaves no note.
    """

    model: Model
    notes: Mapping[str, float] = field(default_factory=dict)


def choose_model(context: QueryContext, option: ModelOption) -> ModelChoice:
    """Return the model that the option of a strategy names.

    Parameters
    ----------
    context : QueryContext
        Looked at for an adaptive choice alone.
    option : str
        A model; ``"adaptive"``; or ``"adaptive-reversed"``, the one of the two that the
        rule does not choose, which is the paper's ablation of it.
    """
    if option != "adaptive" and option != "adaptive-reversed":
        return ModelChoice(option)
    choice = adaptive_model(context)
    if option == "adaptive":
        return choice
    other: Model = "local" if choice.model == "global" else "global"
    return ModelChoice(
        other, {**choice.notes, "global-query": float(other == "global")}
    )


def models_of(option: ModelOption) -> tuple[Model, ...]:
    """Return the models that an option needs: both for an adaptive choice.

    Examples
    --------
    >>> models_of("adaptive"), models_of("local-last")
    (('global', 'local'), ('local-last',))
    """
    if option == "adaptive" or option == "adaptive-reversed":
        return ("global", "local")
    return (option,)


def adaptive_model(context: QueryContext) -> ModelChoice:
    """Choose the global model where s_k exceeds δ, else the local one (method §3).

    Parameters
    ----------
    context : QueryContext
        Needs `global_imbalance`, labels, and outputs of the global and the local model;
        `adaptive` holds δ and the seed of the balanced subset.

    Raises
    ------
    ValueError
        If the mean imbalance or every label is missing.
    """
    if context.global_imbalance is None:
        raise ValueError(
            "The adaptive choice of the model needs the campaign's mean imbalance."
        )
    if not len(context.labels):
        raise ValueError(
            "The adaptive choice of the model needs at least one labeled sample."
        )
    rule = context.adaptive
    counts = balanced_counts(
        context.labels, context.num_classes, seed=rule.balance_seed
    )
    d = divergence(
        balanced_mean(context.outputs("global", "labeled").probs, counts),
        balanced_mean(context.outputs("local", "labeled").probs, counts),
    )
    score = global_model_score(d, context.global_imbalance)
    model: Model = "global" if score > rule.threshold else "local"
    notes = {"divergence": d, "score": score, "global-query": float(model == "global")}
    return ModelChoice(model, notes)


def balanced_counts(labels: Tensor, num_classes: int, *, seed: int) -> Tensor:
    """Return how often each labeled sample appears in the balanced subset B_k.

    Every sample once; then each class present is topped up by resampling with
    replacement to the size of the largest class.

    Parameters
    ----------
    labels : Tensor, shape (M,), int64
        Classes of the labeled samples.
    num_classes : int
        Number of classes C.
    seed : int
        Seed of the resampling; the subset is the same in every cycle.

    Returns
    -------
    Tensor, shape (M,), int64
        All at least 1; the counts of a class sum to the size of the largest class.

    Examples
    --------
    >>> balanced_counts(torch.tensor([0, 0, 0, 1]), num_classes=2, seed=42)
    tensor([1, 1, 1, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.ones(len(labels), dtype=torch.int64)
    on_cpu = labels.cpu()
    sizes = torch.bincount(on_cpu, minlength=num_classes)
    for class_index in sizes.nonzero().flatten().tolist():
        members = (on_cpu == class_index).nonzero().flatten()
        missing = int(sizes.max()) - len(members)
        drawn = torch.randint(len(members), (missing,), generator=generator)
        counts[members] += torch.bincount(drawn, minlength=len(members))
    return counts.to(labels.device)


def balanced_mean(probs: Tensor, counts: Tensor) -> Tensor:
    """Return π, the mean softmax over the balanced subset (method §3).

    π = Σ_i n_i p_i / Σ_i n_i, so that repeated samples cost no second forward pass.

    Parameters
    ----------
    probs : Tensor, shape (M, C)
        Class probabilities of the labeled samples.
    counts : Tensor, shape (M,), int64
        From `balanced_counts`.

    Returns
    -------
    Tensor, shape (C,)
        A distribution.
    """
    weights = counts.to(probs.dtype)
    return weights @ probs / weights.sum()


def imbalance(mean_probs: Tensor, labels: Tensor) -> float:
    """Return γ_k = min_{c∈C⁺} π_g[c] / max_{c∈C⁺} π_g[c] (method §3).

    Parameters
    ----------
    mean_probs : Tensor, shape (C,)
        π_g, from `balanced_mean` of the global model.
    labels : Tensor, shape (M,), int64
        Classes of the labeled samples; C⁺ are the classes among them.

    Returns
    -------
    float
        In [0, 1]; 1 is balanced, and so is a client with a single class.

    Examples
    --------
    >>> round(imbalance(torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0, 1, 2])), 5)
    0.16667
    """
    present = mean_probs[labels.bincount(minlength=len(mean_probs)) > 0]
    return float(present.min() / present.max())


def divergence(global_mean: Tensor, local_mean: Tensor) -> float:
    """Return d_k = (1/C) Σ_c |π_g[c] − π_l[c]| / (π_g[c] + π_l[c]) (method §3).

    Parameters
    ----------
    global_mean, local_mean : Tensor, shape (C,)
        π_g and π_l, from `balanced_mean`.

    Returns
    -------
    float
        In [0, 1]; a class with 0 / 0 counts as agreement.

    Examples
    --------
    >>> pi_g, pi_l = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    >>> round(divergence(pi_g, pi_l), 5)
    0.38889
    """
    total = global_mean + local_mean
    terms = (global_mean - local_mean).abs() / total.where(total > 0, 1.0)
    return float(terms.mean())


def global_model_score(divergence: float, global_imbalance: float) -> float:
    """Return s_k = 1 − (d_k + γ̄) / 2 (method §3).

    Parameters
    ----------
    divergence : float
        d_k, in [0, 1].
    global_imbalance : float
        γ̄, in [0, 1].

    Returns
    -------
    float
        In [0, 1]; above the threshold δ the global model judges uncertainty.

    Examples
    --------
    >>> round(global_model_score(0.38889, 0.16667), 5)
    0.72222
    """
    return 1 - (divergence + global_imbalance) / 2
