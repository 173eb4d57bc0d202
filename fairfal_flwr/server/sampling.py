"""Which clients take part in a round: our own seeded draw.

Flower's strategies draw with Python's global generator from all nodes they see, so they
are shown those that were drawn here, and no others.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from flwr.serverapp import Grid

from fairfal_flwr.config.federation import round_size
from fairfal_flwr.randomness import numpy_generator

__all__ = ["draw_clients", "grid_of"]


def draw_clients(
    clients: Sequence[int], fraction: float, seed: int, purpose: str, *indices: int
) -> list[int]:
    """Return the clients that take part, in the order given.

    Parameters
    ----------
    clients : sequence of int
        Those who may.
    fraction : float
        Of them, in (0, 1].
    seed, purpose, *indices
        Of the draw; see `randomness.derive_seed`.
    """
    rows = numpy_generator(seed, purpose, *indices).permutation(len(clients))
    chosen = sorted(rows[: round_size(fraction, len(clients))].tolist())
    return [clients[row] for row in chosen]


def grid_of(nodes: list[int]) -> Grid:
    """Return a grid that shows a strategy only some nodes."""
    return cast(Grid, SimpleNamespace(get_node_ids=lambda: nodes))
