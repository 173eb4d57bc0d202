"""BADGE: diverse samples of large gradients, by k-means++ on gradient embeddings.

Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds
    Jordan T. Ash, Chicheng Zhang, Akshay Krishnamurthy, John Langford and Alekh
    Agarwal. ICLR 2020, arXiv 1906.03671.
"""

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.gradient_embedding import hypothetical_gradients
from fairfal_flwr.query.k_means_plus_plus import k_means_plus_plus
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy

__all__ = ["badge"]


@strategy("badge")
def badge(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Seed a k-means++ on the gradients that the predicted labels would give.

    The first is the sample of the largest gradient; see `k_means_plus_plus`.
    """
    choice = choose_model(context, model)
    points = hypothetical_gradients(context.outputs(choice.model, "pool"))
    picks = k_means_plus_plus(points, budget, generator=context.generator)
    return Selection(picks, notes=choice.notes)
