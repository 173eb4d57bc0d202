"""What a client may label: what of its shard is labeled, asleep or not asked for yet.

All of it is as of a cycle, from the ledger alone, so a request that is repeated sees
what it saw the first time.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import Shard
from fairfal_flwr.query import Selection
from fairfal_flwr.query.memory import DORMANT
from fairfal_flwr.randomness import torch_generator

__all__ = ["Holdings", "Pool"]


@dataclass(frozen=True)
class Holdings:
    """What of a shard is labeled and what may still be asked for.

    Parameters
    ----------
    pool : Tensor, shape (N,), int64
        Positions in the shard not asked for, ascending.
    labeled : Tensor, shape (M,), int64
        Positions in the shard that are labeled, ascending.
    labels : Tensor, shape (M,), int64
        Their classes.
    """

    pool: Tensor
    labeled: Tensor
    labels: Tensor

    def sampled(
        self, count: int, generator: torch.Generator, *, last: Tensor | None = None
    ) -> Self:
        """Return the same with a random part of the pool.

        Parameters
        ----------
        count : int
            Samples to keep; a pool that is no larger stays as it is.
        generator : torch.Generator
            Of the CPU.
        last : Tensor, shape (N,), bool, optional
            Samples of the pool to take only where the others are too few.
        """
        if len(self.pool) <= count:
            return self
        rank = torch.rand(len(self.pool), generator=generator, dtype=torch.float64)
        if last is not None:
            rank += last.cpu()
        kept = rank.argsort()[:count].sort().values
        return replace(self, pool=self.pool[kept.to(self.pool.device)])


class Pool:
    """The labels and questions of one client, as positions in its shard.

    Parameters
    ----------
    config : RunConfig
        `campaign.budget`, `query.max-pool` and the seed.
    index : int
        The client's index.
    shard : Shard
        The images.
    ledger : Ledger
        What was asked and answered.
    """

    def __init__(
        self, config: RunConfig, index: int, shard: Shard, ledger: Ledger
    ) -> None:
        self.config = config
        self.index = index
        self.shard = shard
        self.ledger = ledger

    @property
    def num_images(self) -> int:
        """How many images the campaign counts on: those of its start."""
        return self.ledger.num_images

    @property
    def budget(self) -> int:
        """How many samples to label in a cycle, at least 1."""
        return self.config.campaign.labels_per_cycle(self.num_images)

    def wanted(self, cycle: int) -> int:
        """Return for how many samples the query of a cycle is to ask.

        A budget, less the questions that are still open, and with those given back that
        nobody could tell since the query before::

            n_c = max(0, b − |open_(c−1)| + |aside_(c−1)| − |aside_(p−1)|)

        p is the last cycle before c with a query; both sets are as of a cycle's end.
        """
        done = self.ledger.counts(cycle - 1)
        before = self.ledger.counts(self.ledger.last_cycle(cycle) - 1)
        return max(0, self.budget - done.waiting + done.set_aside - before.set_aside)

    @property
    def left(self) -> int:
        """How many samples this campaign may still ask for."""
        return self.num_images - len(self.ledger.requested())

    def as_of(self, cycle: int) -> Holdings:
        """Return what a cycle's training sees, and what no query up to it asked for."""
        sample_ids, labels = self.ledger.labeled(cycle)
        asked = np.isin(self.shard.sample_ids, self.ledger.requested(cycle))
        positions = np.searchsorted(self.shard.sample_ids, sample_ids)
        device = self.shard.images.device
        return Holdings(
            pool=torch.from_numpy(np.flatnonzero(~asked)).to(device),
            labeled=torch.from_numpy(positions).to(device),
            labels=torch.from_numpy(labels).to(device),
        )

    def shown(self, cycle: int) -> Holdings:
        """Return what the query of a cycle looks at: at most `query.max-pool`.

        What an earlier query put to sleep is shown where nothing else is left.
        """
        holdings = self.as_of(cycle - 1)
        most = self.config.query.max_pool
        if not most:
            return holdings
        return holdings.sampled(
            max(most, self.budget),
            torch_generator(self.config.seed, "max-pool", cycle, self.index),
            last=self.memory(DORMANT, cycle, holdings.pool) != 0,
        )

    def memory(self, name: str, cycle: int, positions: Tensor) -> Tensor:
        """Return what a strategy remembers of some samples when a cycle's query begins.

        Returns
        -------
        Tensor, shape (N,), int64
            0 where nothing is remembered.
        """
        known, values = self.ledger.memory(name, cycle - 1)
        found = values_at(self.sample_ids(positions), known, values)
        return torch.from_numpy(found).to(positions.device)

    def record(
        self, cycle: int, strategy: str, shown: Holdings, selection: Selection
    ) -> None:
        """Write a selection into the ledger, with what the strategy remembers.

        Parameters
        ----------
        cycle : int
            Of the query.
        strategy : str
            What chose.
        shown : Holdings
            What it was shown.
        selection : Selection
            What it chose.
        """
        sample_ids = self.sample_ids(shown.pool)
        self.ledger.record_selection(
            cycle,
            strategy,
            self.chosen(shown, selection),
            suggestions=_as_numpy(selection.suggestions),
            scores=_as_numpy(selection.scores),
            notes=selection.notes,
            memory={
                name: self._remembered(name, cycle, sample_ids, values)
                for name, values in selection.memory.items()
            },
        )

    def chosen(self, shown: Holdings, selection: Selection) -> NDArray[np.int64]:
        """Return the samples that a selection means, in its order."""
        return self.sample_ids(shown.pool[selection.positions])

    def sample_ids(self, positions: Tensor) -> NDArray[np.int64]:
        """Return the identities of some samples."""
        found: NDArray[np.int64] = self.shard.sample_ids[positions.cpu().numpy()]
        return found

    def _remembered(
        self, name: str, cycle: int, shown: NDArray[np.int64], values: Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return samples and values that are not 0; those not shown keep theirs."""
        known, before = self.ledger.memory(name, cycle - 1)
        unseen = ~np.isin(known, shown)
        sample_ids = np.concatenate([known[unseen], shown])
        all_values = np.concatenate([before[unseen], values.cpu().numpy()])
        kept = all_values != 0
        return sample_ids[kept], all_values[kept]


def values_at(
    wanted: NDArray[np.int64], known: NDArray[np.int64], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Look values up; 0 for what is not known.

    Parameters
    ----------
    wanted : ndarray, shape (N,), int64
        Samples.
    known, values : ndarray, shape (n,), int64
        Ascending samples and their values.

    Examples
    --------
    >>> values_at(np.array([7, 2, 5]), np.array([5, 7]), np.array([1, 3])).tolist()
    [3, 0, 1]
    """
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64)
    rows = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[rows] == wanted, values[rows], 0)


def _as_numpy(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else tensor.cpu().numpy()
