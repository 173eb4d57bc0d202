"""Core-set: cover the pool, starting from what is labeled.

Active Learning for Convolutional Neural Networks: A Core-Set Approach
    Ozan Sener and Silvio Savarese. ICLR 2018, arXiv 1708.00489.
"""

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.k_center import cover_vectors
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy

__all__ = ["coreset"]


@strategy("coreset")
def coreset(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the sample farthest from labeled and chosen ones, again and again.

    argmax_{x∈U} min_{s∈S} ‖h(x) − h(s)‖, S = L and what is chosen; without labels the
    first position starts (section 4.1, the greedy variant).
    """
    choice = choose_model(context, model)
    pool = context.outputs(choice.model, "pool").features
    labeled = context.outputs(choice.model, "labeled").features
    return Selection(cover_vectors(pool, budget, anchors=labeled), notes=choice.notes)
