"""Diverse mini-batch: cluster the uncertain samples, take one of each cluster.

Diverse mini-batch Active Learning
    Fedor Zhdanov. arXiv 1901.05954, 2019.
"""

from typing import Annotated

from fairfal_flwr.query.clusters import k_means, nearest_members
from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.measures import margins
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up, top

__all__ = ["diverse_batch"]


@strategy("diverse-batch")
def diverse_batch(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    prefilter_factor: Annotated[int, Range(ge=1)] = 10,
    num_starts: Annotated[int, Range(ge=1)] = 10,
) -> Selection:
    """Take the sample nearest to each centroid of a weighted k-means.

    Parameters
    ----------
    context : QueryContext
        Needs outputs on the pool alone.
    budget : int
        Number of clusters.
    model : str
        Whose margins and features.
    prefilter_factor : int
        Samples of the smallest margin that are clustered, as a multiple of the budget
        (β).
    num_starts : int
        Runs of k-means of which the best is kept; 10 were scikit-learn's default when
        the published code was run.

    Notes
    -----
    A sample weighs 1 − margin. The nearest *member* of each cluster is taken, so that
    no sample is chosen twice; a cluster left empty by duplicates is made up for by the
    smallest margin.
    """
    choice = choose_model(context, model)
    outputs = context.outputs(choice.model, "pool")
    scores = -margins(outputs.probs)
    uncertain = top(scores, prefilter_factor * budget)
    features = outputs.features[uncertain]
    clusters = k_means(
        features,
        budget,
        generator=context.generator,
        # A weight of 0 would let k-means++ fail on a pool that is certain throughout.
        num_starts=num_starts,
        weights=(1 + scores[uncertain]).clamp(min=1e-6),
    )
    chosen = uncertain[nearest_members(features, clusters)]
    chosen = fill_up(chosen, uncertain, budget)
    return Selection(chosen, scores=scores[chosen], notes=choice.notes)
