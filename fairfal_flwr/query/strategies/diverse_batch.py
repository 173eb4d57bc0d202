"""Diverse mini-batch: cluster the uncertain samples, take one of each cluster.

Diverse mini-batch Active Learning
    Fedor Zhdanov. arXiv 1901.05954, 2019.
"""

from fairfal_flwr.query.clusters import k_means, nearest_members
from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.measures import margins
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up, top

__all__ = ["diverse_batch"]


@strategy("diverse-batch")
def diverse_batch(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    prefilter_factor: int = 10,
) -> Selection:
    """Take the sample nearest to each centroid of a weighted k-means.

    Parameters
    ----------
    context : QueryContext
        Needs outputs on the pool alone.
    budget : int
        Number of clusters.
    model : str, default "global"
        Whose margins and features.
    prefilter_factor : int, default 10
        β, at least 1: the β·b samples of the smallest margin are clustered, each
        weighted by 1 − margin.

    Notes
    -----
    The nearest *member* of each cluster, so that no sample is chosen twice; a cluster
    left empty by duplicates is made up for by the smallest margin.

    Raises
    ------
    ValueError
        If β is below 1.
    """
    if prefilter_factor < 1:
        raise ValueError(f"Expected prefilter_factor >= 1, got {prefilter_factor}.")
    choice = choose_model(context, model)
    outputs = context.outputs(choice.model, "pool")
    margin = margins(outputs.probs)
    uncertain = top(-margin, prefilter_factor * budget)
    features = outputs.features[uncertain]
    clusters = k_means(
        features,
        budget,
        generator=context.generator,
        # A weight of 0 would let k-means++ fail on a pool that is certain throughout.
        weights=(1 - margin[uncertain]).clamp(min=1e-6),
    )
    chosen = uncertain[nearest_members(features, clusters)]
    return Selection(fill_up(chosen, uncertain, budget), notes=choice.notes)
