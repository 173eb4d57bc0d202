"""Uncertainty sampling: least confidence, margin, entropy.

Active Learning Literature Survey
    Burr Settles. Computer Sciences Technical Report 1648, University of
    Wisconsin-Madison, 2009.
"""

import torch
from torch import Tensor

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import top

__all__ = [
    "entropies",
    "entropy",
    "least_confidence",
    "margin",
    "margins",
]


@strategy("least-confidence")
def least_confidence(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples whose likeliest class is least likely: smallest max_c p_c."""
    choice = choose_model(context, model)
    confidence = context.outputs(choice.model, "pool").probs.amax(dim=1)
    return Selection(top(-confidence, budget), notes=choice.notes)


@strategy("margin")
def margin(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples whose two likeliest classes are closest."""
    choice = choose_model(context, model)
    scores = -margins(context.outputs(choice.model, "pool").probs)
    return Selection(top(scores, budget), notes=choice.notes)


@strategy("entropy")
def entropy(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples of the largest predictive entropy."""
    choice = choose_model(context, model)
    scores = entropies(context.outputs(choice.model, "pool").probs)
    return Selection(top(scores, budget), notes=choice.notes)


def margins(probs: Tensor) -> Tensor:
    """Return p_(1) − p_(2), the lead of the likeliest class over the second.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Class probabilities, C >= 2.

    Returns
    -------
    Tensor, shape (N,)
        In [0, 1].

    Examples
    --------
    >>> margins(torch.tensor([[0.5, 0.25, 0.25]]))
    tensor([0.2500])
    """
    first_two = probs.topk(2, dim=1).values
    return first_two[:, 0] - first_two[:, 1]


def entropies(probs: Tensor) -> Tensor:
    """Return H(p) = −Σ_c p_c log p_c in nats; 0 log 0 is 0.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Class probabilities.

    Returns
    -------
    Tensor, shape (N,)
        In [0, log C].

    Examples
    --------
    >>> entropies(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    result: Tensor = torch.special.entr(probs).sum(dim=1)
    return result
