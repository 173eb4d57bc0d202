"""What the run config knows of a query strategy."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["QueryStrategy", "describe"]


class QueryStrategy(NamedTuple):
    """What a query strategy takes and needs.

    Parameters
    ----------
    model : str
        Default of its option `model`; empty where it has none.
    model_words : tuple of str
        What that option takes.
    models : tuple of str
        The models that it may ask for.
    needs_imbalance : bool
        Whether it reads the mean imbalance.
    summary : str
        What it takes, in one sentence.
    """

    model: str = ""
    model_words: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    needs_imbalance: bool = False
    summary: str = ""


def describe(name: str, options: Mapping[str, Any] | None = None) -> QueryStrategy:
    """Ask the query engine about a strategy, under options other than the defaults.

    This brings PyTorch; `generated` holds the answers for our own strategies with
    their defaults.

    Raises
    ------
    ValueError
        If there is no such strategy, module or function.
    """
    from fairfal_flwr.query.registry import resolve

    strategy = resolve(name)
    needs = strategy.requirements(options or {})
    option = strategy.options.get("model")
    return QueryStrategy(
        option.default if option else "",
        option.words if option else (),
        needs.models,
        needs.needs_imbalance,
        (inspect.getdoc(strategy.function) or "").partition("\n")[0],
    )
