"""What a client keeps of its last rounds of training: weights, and what was watched.

A query may ask for the client's own model, an objective for its previous one, and a
strategy may follow the pool while the client trains (`query.memory.Watch`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairfal_flwr.client.pool import values_at
from fairfal_flwr.client.round_files import Moment, RoundFiles
from fairfal_flwr.messages import TrainRequest, Weights
from fairfal_flwr.tensor_file import below

__all__ = ["LastRound", "LastRounds"]

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

    def memory(self, name: str, sample_ids: NDArray[np.int64]) -> Tensor:
        """Return what a watch made of some samples, shape (N,); 0 if not watched."""
        if name not in self.watched:
            return torch.zeros(len(sample_ids), dtype=torch.int64)
        return torch.from_numpy(
            values_at(sample_ids, self.sample_ids, self.watched[name])
        )


class LastRounds:
    """A client's rounds, as far back as the server can go.

    A round that is asked for again must find what it found the first time, which is
    not what it left itself.

    Parameters
    ----------
    ledger : Path
        The client's; the files are beside it.
    """

    def __init__(self, ledger: Path) -> None:
        self.files = RoundFiles(ledger, "last-round", "the weights of the last round")

    def before_cycle(self, cycle: int) -> LastRound | None:
        """Return the last round of all cycles before; None if there is none."""
        return self._last(m for m in self.files.moments() if m[0] < cycle)

    def before(self, request: TrainRequest) -> LastRound | None:
        """Return the last round of the same cycle before the one asked for, or None."""
        at = request.moment
        return self._last(m for m in self.files.moments() if m[0] == at[0] and m < at)

    def write(self, last: LastRound, checkpoint: Moment) -> None:
        """Keep a round, and of those up to the server's checkpoint the last alone.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        self.files.write((last.cycle, last.round), _tensors(last))
        old = [moment for moment in self.files.moments() if moment <= checkpoint]
        self.files.forget(old[:-1])

    def _last(self, moments: Iterable[Moment]) -> LastRound | None:
        moment = max(moments, default=None)
        if moment is None or (tensors := self.files.read(moment)) is None:
            return None
        return _round(moment, tensors)


def _tensors(last: LastRound) -> dict[str, Tensor]:
    tensors = {f"{WEIGHT}{name}": value for name, value in last.weights.items()}
    tensors[SAMPLE_IDS] = torch.from_numpy(last.sample_ids)
    for name, values in last.watched.items():
        tensors[f"{WATCHED}{name}"] = torch.from_numpy(values)
    return tensors


def _round(moment: Moment, tensors: Mapping[str, Tensor]) -> LastRound:
    return LastRound(
        *moment,
        weights=below(WEIGHT, tensors),
        sample_ids=tensors[SAMPLE_IDS].numpy(),
        watched={name: v.numpy() for name, v in below(WATCHED, tensors).items()},
    )
