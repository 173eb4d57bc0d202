"""The strategies by name, and the one way to call them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    if not isinstance(budget, Integral) or budget < 0:
        raise ValueError(f"Expected a budget, an integer >= 0; got {budget!r}.")
    check_options(chosen.options, options)
    if budget == 0 or budget >= context.pool_size:
        return Selection(torch.arange(min(budget, context.pool_size)))
    selection = chosen.function(context, budget, **options)
    own = {name for name, watch in chosen.remembers.items() if watch is None}
    for problem in _problems(selection, budget, context.pool_size, own):
        raise ValueError(f"The strategy {strategy!r} {problem}.")
    return selection


def _problems(
    selection: Selection, budget: int, pool_size: int, own: set[str]
) -> Iterator[str]:
    """Yield what is wrong with a selection; the first makes the others meaningless."""
    if not isinstance(selection, Selection):
        yield f"returned a {type(selection).__name__}; expected a Selection"
    positions, scores = selection.positions, selection.scores
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64:
        kind = getattr(positions, "dtype", type(positions).__name__)
        yield f"returned positions of {kind}; expected a tensor of int64"
    if positions.shape != (budget,):
        yield f"returned {tuple(positions.shape)} positions; expected ({budget},)"
    first, last = int(positions.min()), int(positions.max())
    if not 0 <= first <= last < pool_size:
        yield f"returned positions {first} to {last}; expected 0 to {pool_size - 1}"
    if int(positions.bincount().max()) > 1:
        yield "returned a position twice; expected distinct ones"
    if scores is not None and (
        scores.shape != (budget,) or not scores.is_floating_point()
    ):
        found = f"{scores.dtype} {tuple(scores.shape)}"
        yield f"returned scores of {found}; expected a float for each position"
    if undeclared := sorted(selection.memory.keys() - own):
        yield f"remembers {undeclared}, which its decorator does not declare"
    for name, values in selection.memory.items():
        if values.shape != (pool_size,) or values.dtype != torch.int64:
            yield f"remembers {name!r} not as int64 for each of {pool_size} samples"
