"""Flower's aggregation strategies, by name, with their arguments (docs/federation.md).

What there is to know of each stands in `config.federation.AGGREGATIONS`. Which clients
take part in a round is decided by the federation, so the arguments that sample nodes
are not offered.
"""

from collections.abc import Callable, Iterable
from math import ceil
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from fairfal_flwr.config import FederationConfig, RunConfig
from fairfal_flwr.config.federation import AGGREGATIONS
from fairfal_flwr.messages import ARRAYS
from fairfal_flwr.server.privacy import EQUAL_WEIGHT
from fairfal_flwr.server.scaffold import Scaffold

__all__ = ["make_strategy", "quorum"]

OWN: dict[str, type[FedAvg]] = {"scaffold": Scaffold}
ClientOf = Callable[[int], int]


class _OptimizesParametersOnly(FedAvg):
    """Hides BatchNorm's buffers from a strategy and averages them as FedAvg does.

    A server optimizer takes the mean update for a gradient, which buffers do not
    have: an adaptive step would drive variances below zero, and their changes, which
    are large, would rule every norm.
    """

    buffers: frozenset[str] = frozenset()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send everything; let the strategy see the parameters."""
        seen = self._parameters(arrays)
        messages = list(super().configure_train(server_round, seen, config, grid))
        for message in messages:
            message.content[self.arrayrecord_key] = arrays
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the buffers, let the strategy aggregate the parameters."""
        replies = list(replies)
        means, _ = FedAvg.aggregate_train(self, server_round, replies)
        for reply in replies:
            received = cast(ArrayRecord, reply.content[ARRAYS])
            reply.content[ARRAYS] = self._parameters(received)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None and means is not None:
            arrays = ArrayRecord({**means, **arrays})
        return arrays, metrics

    def _parameters(self, arrays: ArrayRecord) -> ArrayRecord:
        kept = {name: a for name, a in arrays.items() if name not in self.buffers}
        return ArrayRecord(kept)


def make_strategy(
    config: RunConfig, buffers: frozenset[str], client_of: ClientOf
) -> FedAvg:
    """Return the strategy that section `federation` describes, without a memory.

    Parameters
    ----------
    config : RunConfig
        The run.
    buffers : frozenset of str
        Entries of the state dict that have no gradient (`Evaluator.buffers`).
    client_of : callable
        From Flower's node id to the client's index.
    """
    federation = config.federation
    keywords: dict[str, Any] = {
        name: getattr(federation, name)
        for name in (
            key.replace("-", "_") for key in AGGREGATIONS[federation.strategy].takes
        )
    }
    keywords |= dict.fromkeys(
        ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1
    )
    if config.privacy.adds_noise:
        keywords["weighted_by_key"] = EQUAL_WEIGHT
    build = _class_of(federation.strategy)
    if build is Scaffold:
        keywords |= {"num_clients": config.num_clients}
        keywords |= {"buffers": buffers, "client_of": client_of}
    if federation.strategy == "qfedavg":
        keywords["client_learning_rate"] = (
            federation.client_learning_rate or config.train.lr
        )
        keywords["train_loss_key"] = "loss"
    strategy = build(**keywords)
    if isinstance(strategy, _OptimizesParametersOnly):
        strategy.buffers = buffers
    return strategy


def quorum(config: FederationConfig, num_asked: int) -> int:
    """Return how many of a round's clients must answer well.

    Examples
    --------
    >>> quorum(FederationConfig(quorum=0.5), 5)
    3
    >>> quorum(FederationConfig(strategy="krum", quorum=0.5), 5)
    3
    """
    least = AGGREGATIONS[config.strategy].least_replies(config.num_malicious_nodes)
    return max(least, ceil(config.quorum * num_asked - 1e-9))


def _class_of(name: str) -> type[FedAvg]:
    """Return the class of a strategy; one that optimizes sees the parameters alone."""
    entry = AGGREGATIONS[name]
    if not entry.flower:
        return OWN[name]
    found = cast(type[FedAvg], getattr(flower, entry.flower))
    if not entry.parameters_only:
        return found
    return type(entry.flower, (_OptimizesParametersOnly, found), {})
