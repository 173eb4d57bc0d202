"""Random sampling: the control that every strategy must beat."""

import torch

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.registry import strategy

__all__ = ["random"]


@strategy("random", models=())
def random(context: QueryContext, budget: int) -> Selection:
    """Choose uniformly, without replacement, from the context's generator."""
    order = torch.randperm(context.pool_size, generator=context.generator)
    return Selection(order[:budget])
