"""What a strategy remembers of each sample, from one query to the next.

A strategy names its memories where it is registered. One it writes itself: what it
returns as `Selection.memory` is in `QueryContext.memory` at the next query. Another is
written by a `Watch`, which follows the pool while the client trains.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DORMANT", "PredictionChanges", "Watch", "Watches"]

DORMANT = "dormant"
"""The one memory that the client reads: samples where it is not 0 are shown last."""


class Watch(Protocol):
    """Follows the pool through a round of local training; built from its size N."""

    def look(self, probs: Tensor, /) -> None:
        """Take in the class probabilities, shape (N, C), after a local epoch."""

    @property
    def values(self) -> Tensor:
        """What to remember of each sample, shape (N,), int64; zeros at the start."""


Watches = Mapping[str, Callable[[int], Watch]]
"""What follows the pool, by the name of the memory that it makes."""


class PredictionChanges:
    """Counts how often predictions change from one look to the next.

    CHASe calls the number the epistemic variation of a sample.

    Parameters
    ----------
    size : int
        N, the samples that are looked at.

    Examples
    --------
    >>> changes = PredictionChanges(2)
    >>> for probs in ([[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.1, 0.9]]):
    ...     changes.look(torch.tensor(probs))
    >>> changes.values
    tensor([1, 0])
    """

    def __init__(self, size: int) -> None:
        self._counts = torch.zeros(size, dtype=torch.int64)
        self._before: Tensor | None = None

    def look(self, probs: Tensor, /) -> None:
        """Count whose likeliest class is not the one of the last look."""
        now = probs.argmax(dim=1)
        if self._before is not None:
            self._counts += (now != self._before).to(self._counts)
        self._before = now

    @property
    def values(self) -> Tensor:
        """How often each prediction changed, shape (N,), int64, on the CPU."""
        return self._counts.clone()
