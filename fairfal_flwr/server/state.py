"""The state of a campaign: all that it is between two steps, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fairfal_flwr.messages import Weights

__all__ = ["CampaignState"]


@dataclass(frozen=True)
class CampaignState:
    """Where a campaign stands; each step makes a new one of the one before.

    With what the aggregation strategy remembers (`Federation.state_dict`) and the run's
    folder, whose name is that of the clients' ledgers, it is enough to go on from.

    Parameters
    ----------
    cycle : int
        Counted from 1; 0 before the first annotation.
    round : int
        Rounds of the cycle that are done.
    samples, labels : Mapping[int, int]
        Images and labels by client, each as it last said.
    most_labels : Mapping[int, int]
        Labels that a client can have: those it said, or where it was left out of
        queries since then, with a budget for each of them.
    ledgers : Mapping[int, list[int]]
        The head of each client's ledger as it last said: entries, start of the digest.
    weights : Weights
        The global model: the last aggregate, or what the cycle starts from.
    strategy_rounds : int
        Rounds since the aggregation strategy started.
    mean_imbalance : float, optional
        γ̄, once it was measured; kept for the whole campaign.
    global_queries : int, optional
        Clients whose global model judged uncertainty in this cycle's query; None where
        the strategy makes no such choice.
    query_seconds, train_seconds : float
        What the cycle took so far.
    """

    cycle: int = 0
    round: int = 0
    samples: Mapping[int, int] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)
    most_labels: Mapping[int, int] = field(default_factory=dict)
    ledgers: Mapping[int, list[int]] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    strategy_rounds: int = 0
    mean_imbalance: float | None = None
    global_queries: int | None = None
    query_seconds: float = 0.0
    train_seconds: float = 0.0

    @property
    def moment(self) -> tuple[int, int]:
        """Cycle and round."""
        return self.cycle, self.round

    @property
    def num_samples(self) -> int:
        """Images of all clients together."""
        return sum(self.samples.values())

    @property
    def num_labels(self) -> int:
        """Labels of all clients together."""
        return sum(self.labels.values())

    @property
    def is_labeled(self) -> bool:
        """Whether there is an image and none without a label."""
        return 0 < self.num_samples == self.num_labels
