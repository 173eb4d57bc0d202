"""Federated active learning on Flower: FairFAL and its companions.

For a notebook: ``from fairfal_flwr import select, Outputs, QueryContext``.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairfal_flwr.query import Outputs, QueryContext, Selection, select

__all__ = ["Outputs", "QueryContext", "Selection", "__version__", "select"]

try:
    __version__ = version("fairfal-flwr")
except PackageNotFoundError:  # a Flower app bundle carries the code, not its metadata
    __version__ = "unpackaged"


def __getattr__(name: str) -> Any:
    """Import the query engine, and with it PyTorch, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairfal_flwr import query

    return getattr(query, name)
