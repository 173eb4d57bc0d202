"""Borrowing a network: it is handed back in the modes it was in."""

from collections.abc import Iterator
from contextlib import contextmanager

from fairfal_flwr.query.context import Network

__all__ = ["evaluating"]


@contextmanager
def evaluating(network: Network) -> Iterator[Network]:
    """Put every module of a network in evaluation mode for a while."""
    in_training = [module for module in network.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield network
    finally:
        for module in in_training:
            module.training = True
