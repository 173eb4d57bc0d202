"""The section `federation`, and what there is to know of each strategy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from fairfal_flwr.config.section import OneOf, Section

__all__ = ["AGGREGATIONS", "Aggregation", "FederationConfig", "round_size"]


def _one(hostile: int) -> int:
    """Return 1: any reply can be averaged."""
    return 1


def _krum_least(hostile: int) -> int:
    """Return 2f + 3 (Blanchard et al. 2017, Proposition 1)."""
    return 2 * hostile + 3


def _bulyan_least(hostile: int) -> int:
    """Return 4f + 3 (El Mhamdi et al. 2018, Section 4)."""
    return 4 * hostile + 3


@dataclass(frozen=True)
class Aggregation:
    """A way in which the clients' models become one.

    Parameters
    ----------
    flower : str
        Name of the class in `flwr.serverapp.strategy`; empty for one of our own.
    takes : tuple of str
        Keys of `federation` that are arguments of the class.
    parameters_only : bool, default False
        Whether it must not see BatchNorm's buffers, which are averaged beside it.
    least_replies : callable
        Fewest replies it works with, given the hostile clients to withstand.
    remembers : tuple of str
        Attributes of the class that a run which goes on needs again. What it takes
        from the weights that it is given is none.
    has_variates : bool, default False
        Whether each client also sends the change of a control variate.
    """

    flower: str
    takes: tuple[str, ...] = ()
    parameters_only: bool = False
    least_replies: Callable[[int], int] = _one
    remembers: tuple[str, ...] = ()
    has_variates: bool = False


_MOMENTS: dict[str, Any] = {"parameters_only": True, "remembers": ("m_t", "v_t")}

AGGREGATIONS: dict[str, Aggregation] = {
    "fedavg": Aggregation("FedAvg"),
    "fedavgm": Aggregation(
        "FedAvgM",
        ("server-learning-rate", "server-momentum"),
        parameters_only=True,
        remembers=("momentum_vector",),
    ),
    "fedprox": Aggregation("FedProx", ("proximal-mu",)),
    "scaffold": Aggregation(
        "",
        ("server-learning-rate",),
        remembers=("variate", "accepted"),
        has_variates=True,
    ),
    "fedadam": Aggregation("FedAdam", ("eta", "beta-1", "beta-2", "tau"), **_MOMENTS),
    "fedadagrad": Aggregation("FedAdagrad", ("eta", "tau"), **_MOMENTS),
    "fedyogi": Aggregation("FedYogi", ("eta", "beta-1", "beta-2", "tau"), **_MOMENTS),
    "qfedavg": Aggregation(
        "QFedAvg", ("q", "client-learning-rate"), parameters_only=True
    ),
    "fedmedian": Aggregation("FedMedian"),
    "fedtrimmedavg": Aggregation("FedTrimmedAvg", ("beta",)),
    "krum": Aggregation("Krum", ("num-malicious-nodes",), least_replies=_krum_least),
    "multikrum": Aggregation(
        "MultiKrum",
        ("num-malicious-nodes", "num-nodes-to-select"),
        least_replies=_krum_least,
    ),
    "bulyan": Aggregation(
        "Bulyan", ("num-malicious-nodes",), least_replies=_bulyan_least
    ),
}


class FederationConfig(Section):
    """How the clients' models become one (docs/federation.md).

    The keys from `server-learning-rate` on are arguments of the strategy.
    """

    strategy: Annotated[str, OneOf(tuple(AGGREGATIONS))] = Field(
        "fedavg", description="The aggregation strategy."
    )
    fraction_train: float = Field(
        1.0, gt=0, le=1, description="Fraction of the clients that train in a round."
    )
    fraction_evaluate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the clients that also test the global model on their "
        "own test shards, in the rounds that `campaign.evaluate-every` names. Above 0, "
        "their counts of test images per class travel (docs/privacy.md).",
    )
    quorum: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Fraction of a round's clients whose replies are enough to go on.",
    )
    round_retries: int = Field(
        2,
        ge=0,
        description="How often a round below the quorum is repeated for the clients "
        "that are missing, before the run stops; and a query for every client that "
        "answers badly.",
    )
    max_update_norm: float = Field(
        100.0,
        ge=0,
        description="A reply whose update has more than so many times the median norm "
        "of the round is dropped; 0 drops none. Three replies are needed to tell.",
    )
    connect_timeout: float = Field(
        10.0, ge=0, description="Seconds to wait for the SuperNodes to connect."
    )
    round_timeout: float = Field(
        3600.0, gt=0, description="Seconds to wait for the replies of one round."
    )
    server_learning_rate: float = Field(
        1.0,
        gt=0,
        description="Step of the server along the clients' mean update.",
    )
    server_momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of that step."
    )
    proximal_mu: float = Field(
        0.01,
        ge=0,
        description="Weight mu of the proximal term mu/2 |w - w_global|^2.",
    )
    eta: float = Field(
        0.1,
        gt=0,
        description="The server's learning rate.",
    )
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta_2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the second moment.",
    )
    tau: float = Field(
        1e-3,
        gt=0,
        description="Floor under the adaptive scale.",
    )
    q: float = Field(
        0.1,
        ge=0,
        description="Fairness: how strongly a client's loss raises its say.",
    )
    client_learning_rate: float = Field(
        0.0,
        ge=0,
        description="Inverse of the Lipschitz constant that is assumed; 0 is "
        "`train.lr`.",
    )
    beta: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="Fraction cut off at both ends of each coordinate.",
    )
    num_malicious_nodes: int = Field(
        0,
        ge=0,
        description="Hostile clients to withstand.",
    )
    num_nodes_to_select: int = Field(
        1, ge=1, description="Clients whose models are averaged."
    )

    @property
    def aggregation(self) -> Aggregation:
        """What there is to know of the chosen strategy."""
        return AGGREGATIONS[self.strategy]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the chosen strategy, as Flower's class calls them."""
        return self.chosen(self.aggregation.takes)


def round_size(fraction: float, num_clients: int) -> int:
    """Return how many of the clients a round asks, at least 1.

    Examples
    --------
    >>> round_size(0.5, 5), round_size(0.01, 5)
    (2, 1)
    """
    return max(1, round(fraction * num_clients))
