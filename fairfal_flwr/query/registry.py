"""The strategies by name, and the one way to call them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fairfal_flwr.query.context import Model, QueryContext, Selection

__all__ = ["STRATEGIES", "Strategy", "select", "strategy"]

SelectFunction = Callable[..., Selection]


@dataclass(frozen=True)
class Strategy:
    """A query strategy and what it needs.

    Parameters
    ----------
    function : callable
        ``(context, budget, **options) -> Selection`` for 1 <= budget < pool size.
    models : tuple of {"global", "local"}
        The models whose outputs it may ask for; none means it needs no weights.
    needs_imbalance : bool
        Whether it reads `QueryContext.global_imbalance`.
    """

    function: SelectFunction
    models: tuple[Model, ...]
    needs_imbalance: bool


STRATEGIES: dict[str, Strategy] = {}


def strategy(
    name: str, *, models: tuple[Model, ...], needs_imbalance: bool = False
) -> Callable[[SelectFunction], SelectFunction]:
    """Register the decorated function as a query strategy; see `Strategy`."""

    def register(function: SelectFunction) -> SelectFunction:
        assert name not in STRATEGIES, f"two strategies are named {name}"
        STRATEGIES[name] = Strategy(function, models, needs_imbalance)
        return function

    return register


def select(
    strategy: str, context: QueryContext, budget: int, **options: Any
) -> Selection:
    """Choose samples of the pool to be labeled.

    Parameters
    ----------
    strategy : str
        A registered name, such as ``"fairfal"`` or ``"random"``.
    context : QueryContext
        What the strategy may look at.
    budget : int
        How many samples; a pool that is no larger is returned whole.
    **options
        Keyword options of the strategy.

    Returns
    -------
    Selection
        ``min(budget, pool_size)`` distinct positions.

    Raises
    ------
    ValueError
        If the strategy or an option is unknown, or the budget is negative.

    Examples
    --------
    >>> from fairfal_flwr.query import Outputs, QueryContext
    >>> pool = Outputs(torch.full((5, 2), 0.5), torch.ones(5, 4))
    >>> context = QueryContext.from_outputs(
    ...     {("global", "pool"): pool}, labels=torch.tensor([0]), num_classes=2
    ... )
    >>> len(select("random", context, budget=3).positions)
    3
    """
    if strategy not in STRATEGIES:
        known = ", ".join(sorted(STRATEGIES))
        raise ValueError(f"Unknown strategy {strategy!r}; known: {known}.")
    if budget < 0:
        raise ValueError(f"Expected a budget >= 0, got {budget}.")
    function = STRATEGIES[strategy].function
    allowed = list(inspect.signature(function).parameters)[2:]
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(
            f"Unknown options {unknown} of {strategy!r}; known: {allowed}."
        )
    if budget == 0 or budget >= context.pool_size:
        return Selection(torch.arange(min(budget, context.pool_size)))
    selection = function(context, budget, **options)
    _check(selection, budget, context.pool_size)
    return selection


def _check(selection: Selection, budget: int, pool_size: int) -> None:
    positions = selection.positions
    assert positions.shape == (budget,), "a strategy must fill the budget"
    assert positions.dtype == torch.int64
    assert 0 <= int(positions.min()) <= int(positions.max()) < pool_size
    assert positions.bincount().max() == 1, "a strategy must not repeat a sample"
