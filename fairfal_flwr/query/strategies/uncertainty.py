"""Uncertainty sampling: least confidence, margin, entropy.

Active Learning Literature Survey
    Burr Settles. Computer Sciences Technical Report 1648, University of
    Wisconsin-Madison, 2009.
"""

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.measures import entropies, margins
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import take_top

__all__ = ["entropy", "least_confidence", "margin"]


@strategy("least-confidence")
def least_confidence(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples whose likeliest class is least likely: smallest max_c p_c."""
    choice = choose_model(context, model)
    confidence = context.outputs(choice.model, "pool").probs.amax(dim=1)
    return take_top(-confidence, budget, notes=choice.notes)


@strategy("margin")
def margin(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples whose two likeliest classes are closest."""
    choice = choose_model(context, model)
    scores = -margins(context.outputs(choice.model, "pool").probs)
    return take_top(scores, budget, notes=choice.notes)


@strategy("entropy")
def entropy(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples of the largest predictive entropy."""
    choice = choose_model(context, model)
    scores = entropies(context.outputs(choice.model, "pool").probs)
    return take_top(scores, budget, notes=choice.notes)
