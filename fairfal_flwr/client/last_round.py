"""What a client keeps of its last rounds of training: weights, and what was watched.

A query may ask for the client's own model, an objective for its previous one, and a
strategy may follow the pool while the client trains (`query.memory.Watch`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairfal_flwr.client.pool import values_at
from fairfal_flwr.client.tensor_file import read_tensors, write_tensors
from fairfal_flwr.messages import TrainRequest, Weights

__all__ = ["LastRound", "LastRoundFile"]

WEIGHT, WATCHED, SAMPLE_IDS = "weight/", "watched/", "sample-ids"
LATEST, EARLIER = "latest/", "earlier/"
NO_SAMPLES = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class LastRound:
    """A client's last round of training.

    Parameters
    ----------
    cycle, round : int
        When it was, counted from 1.
    weights : Weights
        The client's own, after its training.
    sample_ids : ndarray, shape (n,), int64
        Unlabeled samples that were watched, ascending; often none.
    watched : Mapping of str to ndarray, shape (n,), int64
        What each watch made of them, by the name of the memory.
    """

    cycle: int
    round: int
    weights: Weights
    sample_ids: NDArray[np.int64] = field(default_factory=NO_SAMPLES.copy)
    watched: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def precedes(self, other: "LastRound | TrainRequest") -> bool:
        """Tell whether it is an earlier round of the same cycle."""
        return self.cycle == other.cycle and self.round < other.round

    def memory(self, name: str, sample_ids: NDArray[np.int64]) -> Tensor:
        """Return what a watch made of some samples, shape (N,); 0 if not watched."""
        values = self.watched.get(name)
        known = NO_SAMPLES if values is None else self.sample_ids
        return torch.from_numpy(
            values_at(sample_ids, known, NO_SAMPLES if values is None else values)
        )


class LastRoundFile:
    """Keeps a client's last round, and the one before of the same cycle.

    A round that is asked for again must find what it found the first time, which is
    not what it left itself.

    Parameters
    ----------
    path : Path
        A safetensors file; missing until the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> LastRound | None:
        """Return the last round, on the CPU; None before the first."""
        return next(iter(self._kept()), None)

    def before(self, request: TrainRequest) -> LastRound | None:
        """Return the last round that precedes the one asked for; None if there is none.

        It is of the same cycle.
        """
        return next((last for last in self._kept() if last.precedes(request)), None)

    def write(self, last: LastRound) -> None:
        """Keep a round and, of those before, the last of its cycle.

        A crash leaves the file as it was before or after.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        slots = {LATEST: last}
        if earlier := [kept for kept in self._kept() if kept.precedes(last)]:
            slots[EARLIER] = earlier[0]
        tensors: dict[str, Tensor] = {}
        facts: dict[str, str] = {}
        for slot, kept in slots.items():
            tensors |= {
                f"{slot}{name}": value for name, value in _tensors(kept).items()
            }
            facts |= {f"{slot}cycle": str(kept.cycle), f"{slot}round": str(kept.round)}
        write_tensors(self.path, "the weights of the last round", tensors, facts)

    def _kept(self) -> list[LastRound]:
        """Return the rounds in the file, the latest first."""
        found = read_tensors(self.path)
        if found is None:
            return []
        tensors, facts = found
        return [
            LastRound(
                cycle=int(facts[f"{slot}cycle"]),
                round=int(facts[f"{slot}round"]),
                weights=_below(slot + WEIGHT, tensors),
                sample_ids=tensors[slot + SAMPLE_IDS].numpy(),
                watched={
                    n: v.numpy() for n, v in _below(slot + WATCHED, tensors).items()
                },
            )
            for slot in (LATEST, EARLIER)
            if f"{slot}cycle" in facts
        ]


def _tensors(last: LastRound) -> dict[str, Tensor]:
    tensors = {f"{WEIGHT}{name}": value for name, value in last.weights.items()}
    tensors[SAMPLE_IDS] = torch.from_numpy(last.sample_ids)
    for name, values in last.watched.items():
        tensors[f"{WATCHED}{name}"] = torch.from_numpy(values)
    return tensors


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
