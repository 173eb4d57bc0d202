"""Borrowing a network, which is handed back in the modes it was in."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fairfal_flwr.query.context import Network

__all__ = ["ELEMENTWISE", "dropout_layers", "evaluating"]

ELEMENTWISE = (nn.Dropout,)
DROPOUT = (*ELEMENTWISE, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def dropout_layers(network: Network | nn.Module) -> list[nn.Module]:
    """Return the layers that drop anything."""
    return [m for m in network.modules() if isinstance(m, DROPOUT) and m.p > 0]


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
