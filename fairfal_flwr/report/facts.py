"""What a report is told beside a run's own files, by whoever has the images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choice", "Facts"]

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """What an adaptive choice of the model went by, at one client in one cycle.

    Parameters
    ----------
    divergence : float
        d_k.
    score : float
        s_k.
    """

    divergence: float
    score: float


@dataclass(frozen=True)
class Facts:
    """What is known of a run where its images and ledgers are.

    Parameters
    ----------
    counts : ndarray, shape (num_clients, num_classes), optional
        Images of each class at each client, when the run began.
    class_names : tuple of str
        Empty where they are not known.
    asked : dict of int to ndarray, shape (num_clients, num_classes)
        By cycle, how many images of each true class each client asked for.
    choices : dict of (cycle, client) to Choice
        Where the strategy noted them.
    fingerprint : str
        Of the images of all clients; empty where it is not known.
    missing : tuple of str
        A sentence for each thing that is not known, and why.
    """

    counts: Counts | None = None
    class_names: tuple[str, ...] = ()
    asked: Mapping[int, Counts] = field(default_factory=dict)
    choices: Mapping[tuple[int, int], Choice] = field(default_factory=dict)
    fingerprint: str = ""
    missing: tuple[str, ...] = ()

    def name_of(self, label: int) -> str:
        """Return the name of a class."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def pool(self, cycle: int) -> Counts | None:
        """Return the images of each class that nobody had asked for before a cycle."""
        if self.counts is None:
            return None
        before = [asked for at, asked in self.asked.items() if at < cycle]
        left: Counts = self.counts - sum(before, np.zeros_like(self.counts))
        return left
