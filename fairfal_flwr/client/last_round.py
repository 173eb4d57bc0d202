"""What a client keeps of its last round of training: its weights, and what was watched.

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

    def precedes(self, request: TrainRequest) -> bool:
        """Tell whether it is an earlier round of the same cycle."""
        return self.cycle == request.cycle and self.round < request.round

    def memory(self, name: str, sample_ids: NDArray[np.int64]) -> Tensor:
        """Return what a watch made of some samples, shape (N,); 0 if not watched."""
        values = self.watched.get(name)
        known = NO_SAMPLES if values is None else self.sample_ids
        return torch.from_numpy(
            values_at(sample_ids, known, NO_SAMPLES if values is None else values)
        )


class LastRoundFile:
    """Keeps a client's last round.

    Parameters
    ----------
    path : Path
        A safetensors file; missing until the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> LastRound | None:
        """Return what is kept, on the CPU; None before the first round."""
        kept = read_tensors(self.path)
        if kept is None:
            return None
        tensors, facts = kept
        return LastRound(
            cycle=int(facts["cycle"]),
            round=int(facts["round"]),
            weights=_below(WEIGHT, tensors),
            sample_ids=tensors[SAMPLE_IDS].numpy(),
            watched={n: v.numpy() for n, v in _below(WATCHED, tensors).items()},
        )

    def write(self, last: LastRound) -> None:
        """Keep a round instead of the one before; a crash leaves one of them whole.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        tensors = {f"{WEIGHT}{name}": value for name, value in last.weights.items()}
        tensors[SAMPLE_IDS] = torch.from_numpy(last.sample_ids)
        for name, values in last.watched.items():
            tensors[f"{WATCHED}{name}"] = torch.from_numpy(values)
        facts = {"cycle": str(last.cycle), "round": str(last.round)}
        write_tensors(self.path, "the weights of the last round", tensors, facts)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
