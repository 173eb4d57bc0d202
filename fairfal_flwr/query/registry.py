"""The strategies by name, and the one way to call them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import torch

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.memory import Watch
from fairfal_flwr.query.model_choice import ADAPTIVE, ModelOption, models_of
from fairfal_flwr.query.options import Option, check_options, options_of

__all__ = ["STRATEGIES", "Requirements", "Strategy", "resolve", "select", "strategy"]

SelectFunction = Callable[..., Selection]
Memories = Mapping[str, Callable[[int], Watch] | None]


class Requirements(NamedTuple):
    """What a strategy needs under certain options."""

    models: tuple[Model, ...]
    needs_imbalance: bool


@dataclass(frozen=True)
class Strategy:
    """A query strategy and what it needs.

    Parameters
    ----------
    function : callable
        ``(context, budget, **options) -> Selection`` for 1 <= budget < pool size.
    require : callable
        ``(**options) -> Requirements``, called with every option of the function.
    remembers : Mapping[str, callable or None]
        Names of what it remembers of each sample. A `Watch`, built from the number of
        samples, is fed while the client trains; None is what the strategy itself
        returns in `Selection.memory`.
    needs_dropout : bool, default False
        Whether it can only use a network that has dropout layers.
    """

    function: SelectFunction
    require: Callable[..., Requirements]
    remembers: Memories = field(default_factory=dict)
    needs_dropout: bool = False

    @cached_property
    def options(self) -> dict[str, Option]:
        """The keyword options of the function, in the order declared."""
        return options_of(self.function)

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that it may ask for with its default options."""
        return self.requirements({}).models

    @property
    def needs_imbalance(self) -> bool:
        """Whether its default options make it read the mean imbalance."""
        return self.requirements({}).needs_imbalance

    def requirements(self, options: Mapping[str, Any]) -> Requirements:
        """Return what it needs under these options; missing ones take their defaults.

        Returns
        -------
        Requirements
            `models`: those it may ask the context for; none means it needs no weights.
            `needs_imbalance`: whether it reads `QueryContext.global_imbalance`.
        """
        defaults = {name: option.default for name, option in self.options.items()}
        return self.require(**{**defaults, **options})


STRATEGIES: dict[str, Strategy] = {}


def strategy(
    name: str,
    *,
    models: tuple[Model, ...] | Callable[..., tuple[Model, ...]] | None = None,
    needs_imbalance: bool | Callable[..., bool] | None = None,
    remembers: Memories | None = None,
    needs_dropout: bool = False,
) -> Callable[[SelectFunction], SelectFunction]:
    """Register the decorated function as a query strategy.

    Parameters
    ----------
    name : str
        As in ``query.strategy``; lower case, words joined by hyphens.
    models : tuple or callable, optional
        The models it may ask for, or a function of its options that returns them. By
        default the one that its option `model` names; for an adaptive choice the
        global and the local model.
    needs_imbalance : bool or callable, optional
        Whether it reads the mean imbalance, or a function of its options. By default
        it does where that option is an adaptive choice.
    remembers : Mapping[str, callable or None], optional
        What it remembers of each sample; see `Strategy`.
    needs_dropout : bool, default False
        Whether it can only use a network that has dropout layers.
    """

    def register(function: SelectFunction) -> SelectFunction:
        assert name not in STRATEGIES, f"two strategies are named {name}"
        require = _requirement(models, needs_imbalance)
        STRATEGIES[name] = Strategy(function, require, remembers or {}, needs_dropout)
        return function

    return register


def _requirement(
    models: tuple[Model, ...] | Callable[..., tuple[Model, ...]] | None,
    needs_imbalance: bool | Callable[..., bool] | None,
) -> Callable[..., Requirements]:
    def require(**options: Any) -> Requirements:
        by_option = _by_model_option(options.get("model"))
        wanted = models(**options) if callable(models) else models
        imbalance = (
            needs_imbalance(**options) if callable(needs_imbalance) else needs_imbalance
        )
        return Requirements(
            by_option.models if wanted is None else wanted,
            by_option.needs_imbalance if imbalance is None else imbalance,
        )

    return require


def _by_model_option(model: ModelOption | None) -> Requirements:
    models = models_of(model) if model else ()
    return Requirements(models, needs_imbalance=model in ADAPTIVE)


def resolve(name: str) -> Strategy:
    """Return the strategy that a name stands for.

    Parameters
    ----------
    name : str
        A registered name, or ``"module:function"`` for a function of one's own, in a
        module that can be imported. It needs no decorator; `strategy` says which models
        it asks for, otherwise these are the one that its option `model` names, or the
        global one.

    Raises
    ------
    ValueError
        If there is no such strategy, module or function, or it cannot be called with
        a context and a budget.

    Examples
    --------
    >>> resolve("random").models
    ()
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in STRATEGIES:
            known = ", ".join(sorted(STRATEGIES))
            raise ValueError(f"Unknown strategy {name!r}; known: {known}.")
        return STRATEGIES[name]
    try:
        function = getattr(import_module(module), attribute)
        inspect.signature(function).bind(None, 1)
        options = options_of(function)
    except Exception as error:  # a module of the user's may fail in any way
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Cannot use {name!r} as a strategy: {type(error).__name__}: {reason}."
        ) from error
    registered = (own for own in STRATEGIES.values() if own.function is function)
    models: tuple[Model, ...] | None = None if "model" in options else ("global",)
    return next(registered, Strategy(function, _requirement(models, None)))


def select(
    strategy: str, context: QueryContext, budget: int, **options: Any
) -> Selection:
    """Choose samples of the pool to be labeled.

    Parameters
    ----------
    strategy : str
        A registered name, such as ``"fairfal"`` or ``"random"``, or
        ``"module:function"`` (see `resolve`).
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
        If the strategy or an option is unknown, an option does not take its value, or
        the budget is negative.

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
    chosen = resolve(strategy)
    if budget < 0:
        raise ValueError(f"Expected a budget >= 0, got {budget}.")
    check_options(chosen.options, options)
    if budget == 0 or budget >= context.pool_size:
        return Selection(torch.arange(min(budget, context.pool_size)))
    selection = chosen.function(context, budget, **options)
    _check(selection, budget, context.pool_size)
    own = {name for name, watch in chosen.remembers.items() if watch is None}
    assert selection.memory.keys() <= own, "a strategy must declare what it remembers"
    return selection


def _check(selection: Selection, budget: int, pool_size: int) -> None:
    positions, scores = selection.positions, selection.scores
    assert positions.shape == (budget,), "a strategy must fill the budget"
    assert positions.dtype == torch.int64
    assert 0 <= int(positions.min()) <= int(positions.max()) < pool_size
    assert positions.bincount().max() == 1, "a strategy must not repeat a sample"
    if scores is not None:
        assert scores.shape == (budget,), "a score for each chosen sample, or none"
        assert scores.is_floating_point()
    for values in selection.memory.values():
        assert values.shape == (pool_size,), "a memory is of every pool sample"
        assert values.dtype == torch.int64
