"""What a federation strategy or an objective adds to a client's round of training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fairfal_flwr.client.networks import Networks
from fairfal_flwr.client.pool import Holdings, Pool
from fairfal_flwr.client.training import Trained
from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import TrainRequest
from fairfal_flwr.models import Classifier

__all__ = ["MakePlug", "Plug", "Round", "gradients_of"]


@dataclass(frozen=True)
class Round:
    """One round of training on one client: all that a plug may look at.

    Parameters
    ----------
    config : RunConfig
        The run.
    index : int
        The client's index; with seed, cycle and round it determines all randomness.
    request : TrainRequest
        What the server asks for.
    networks : Networks
        Builds and runs networks on the client's images.
    pool : Pool
        What the client may label.
    holdings : Holdings
        The labels that this round sees, and what was unlabeled when the cycle began.
    ledger : Path
        The client's; what a plug keeps is beside it (`RoundFiles`).
    """

    config: RunConfig
    index: int
    request: TrainRequest
    networks: Networks
    pool: Pool
    holdings: Holdings
    ledger: Path

    @property
    def label_counts(self) -> Tensor:
        """How many labels of each class the round sees, shape (C,), int64."""
        num_classes = self.networks.shard.num_classes
        return self.holdings.labels.bincount(minlength=num_classes)


class Plug:
    """Takes part in a round. It is made when the model holds the global weights.

    Each method does nothing unless it is overridden.
    """

    def correct(self) -> None:
        """Add to the gradients, in place: between backward pass and step."""

    def end_epoch(self) -> None:
        """Look at the model, not change it, after a local epoch."""

    def finish(self, trained: Trained) -> dict[str, Any]:
        """Put away what the next round needs; return what to add to the reply."""
        return {}


MakePlug = Callable[[Round, Classifier], Plug | None]


def gradients_of(parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the parameters that have one."""
    return [p.grad for p in parameters if p.grad is not None]
