"""A query strategy of one's own.

It goes with the app to every client, so this runs it, next to any other option::

    flwr run . -c 'query.strategy="examples.my_strategy:rarest_first"'

Copy the file beside `client_app.py` and name it `my_ideas.py`, and the strategy is
``my_ideas:rarest_first``. A module that is installed on the server and on all clients
does as well.
"""

from typing import Literal

from fairfal_flwr.query import QueryContext, Selection

__all__ = ["rarest_first"]


def rarest_first(
    context: QueryContext, budget: int, *, model: Literal["global", "local"] = "global"
) -> Selection:
    """Take what looks like the client's rarest class, the surest guesses first.

    Parameters
    ----------
    context : QueryContext
        All that a strategy may look at.
    budget : int
        Samples to choose, fewer than there are.
    model : {"global", "local"}
        The model that guesses. `query.model` sets this option, `query.options` any
        other.

    Returns
    -------
    Selection
        Distinct positions in the pool, as many as the budget, and the guesses for the
        annotator to confirm; a larger score is more wanted.
    """
    confidence, guesses = context.outputs(model, "pool").probs.max(dim=1)
    counts = context.labels.bincount(minlength=context.num_classes)
    order = counts[guesses] + 1 - confidence  # 1 - confidence is below 1
    chosen = order.argsort(stable=True)[:budget]
    return Selection(chosen, suggestions=guesses[chosen], scores=-order[chosen])
