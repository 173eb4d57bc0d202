"""Mini-batches of unlabeled images, for objectives that learn from them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import mirror

__all__ = [
    "Rows",
    "mirrored_at_random",
    "pool_batches",
    "pool_inputs",
    "random_batches",
]

Rows = NDArray[np.int64]


def pool_inputs(this: Round) -> Callable[[Rows], Tensor]:
    """Return a function from rows of the round's pool to normalized images."""
    pool, networks = this.holdings.pool, this.networks

    def inputs(rows: Rows) -> Tensor:
        return networks.inputs(pool[torch.from_numpy(rows).to(pool.device)])

    return inputs


def mirrored_at_random(
    inputs: Callable[[Rows], Tensor], rng: np.random.Generator
) -> Callable[[Rows], Tensor]:
    """Return a function that flips each image left to right with probability 1/2."""

    def mirrored(rows: Rows) -> Tensor:
        images = inputs(rows)
        coins = torch.from_numpy(rng.random(len(images)) < 0.5)
        return mirror(images, coins.to(images.device))

    return mirrored


def pool_batches(
    this: Round, rng: np.random.Generator, smallest: int
) -> Iterator[Rows] | None:
    """Return mini-batches of rows of the round's pool for ever; None if it is empty."""
    size = len(this.holdings.pool)
    if not size:
        return None
    batch_size = this.config.train.batch_size
    return random_batches(size, batch_size, rng, smallest=smallest)


def random_batches(
    size: int, batch_size: int, rng: np.random.Generator, *, smallest: int = 1
) -> Iterator[Rows]:
    """Yield the rows of mini-batches for ever, in a new order at every pass.

    Parameters
    ----------
    size : int
        Rows, at least 1.
    batch_size : int
        Rows in a mini-batch. What is left of a pass is dropped, unless it is all.
    rng : numpy.random.Generator
        Shuffles.
    smallest : int, default 1
        Rows that a mini-batch must have; they are repeated where there are too few.
    """
    batch_size = max(batch_size, smallest)
    while True:
        order = rng.permutation(size)
        if size < smallest:
            order = np.resize(order, smallest)
        for start in range(0, max(1, size - batch_size + 1), batch_size):
            yield order[start : start + batch_size]
