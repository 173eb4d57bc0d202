"""Flower's aggregation strategies, by name, with their arguments (docs/federation.md).

Which clients take part in a round is decided by the campaign, so the arguments that
sample nodes are not offered.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fairfal_flwr.config import FederationConfig, RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import ARRAYS
from fairfal_flwr.server.privacy import EQUAL_WEIGHT, adds_noise, make_private, renew
from fairfal_flwr.server.scaffold import Scaffold

__all__ = ["STRATEGIES", "Averaging", "make_strategy", "quorum", "restart"]


class _OptimizesParametersOnly(FedAvg):
    """Hides BatchNorm's statistics from a strategy and averages them as FedAvg does.

    A server optimizer takes the mean update for a gradient, which statistics do not
    have: an adaptive step would drive variances below zero, and their changes, which
    are large, would rule every norm.
    """

    statistics: frozenset[str] = frozenset()

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
        """Average the statistics, let the strategy aggregate the parameters."""
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
        kept = {name: a for name, a in arrays.items() if name not in self.statistics}
        return ArrayRecord(kept)


class _FedAvgM(_OptimizesParametersOnly, FedAvgM): ...


class _FedAdam(_OptimizesParametersOnly, FedAdam): ...


class _FedAdagrad(_OptimizesParametersOnly, FedAdagrad): ...


class _FedYogi(_OptimizesParametersOnly, FedYogi): ...


class _QFedAvg(_OptimizesParametersOnly, QFedAvg): ...


@dataclass(frozen=True)
class Averaging:
    """A strategy, what it takes of the config, and how many replies it needs.

    Parameters
    ----------
    build : type
        Flower's class, or a subclass.
    arguments : tuple of str
        Keys of `FederationConfig` that are arguments of the class.
    least_replies : callable
        Fewest replies it works with, given the hostile clients to withstand.
    """

    build: type[FedAvg]
    arguments: tuple[str, ...] = ()
    least_replies: Callable[[int], int] = lambda _: 1


_ADAPTIVE = ("eta", "beta_1", "beta_2", "tau")
_MULTIKRUM = ("num_malicious_nodes", "num_nodes_to_select")


def _krum_least(hostile: int) -> int:
    """Return 2f + 3 (Blanchard et al. 2017, Proposition 1)."""
    return 2 * hostile + 3


def _bulyan_least(hostile: int) -> int:
    """Return 4f + 3 (El Mhamdi et al. 2018, Section 4)."""
    return 4 * hostile + 3


STRATEGIES: dict[str, Averaging] = {
    "fedavg": Averaging(FedAvg),
    "fedavgm": Averaging(_FedAvgM, ("server_learning_rate", "server_momentum")),
    "fedprox": Averaging(FedProx, ("proximal_mu",)),
    "scaffold": Averaging(Scaffold, ("server_learning_rate",)),
    "fedadam": Averaging(_FedAdam, _ADAPTIVE),
    "fedadagrad": Averaging(_FedAdagrad, ("eta", "tau")),
    "fedyogi": Averaging(_FedYogi, _ADAPTIVE),
    "qfedavg": Averaging(_QFedAvg, ("q", "client_learning_rate")),
    "fedmedian": Averaging(FedMedian),
    "fedtrimmedavg": Averaging(FedTrimmedAvg, ("beta",)),
    "krum": Averaging(Krum, ("num_malicious_nodes",), _krum_least),
    "multikrum": Averaging(MultiKrum, _MULTIKRUM, _krum_least),
    "bulyan": Averaging(Bulyan, ("num_malicious_nodes",), _bulyan_least),
}


def make_strategy(
    config: RunConfig, statistics: frozenset[str] = frozenset()
) -> Strategy:
    """Return the strategy that `federation` and `privacy` describe.

    Parameters
    ----------
    config : RunConfig
        The run.
    statistics : frozenset of str
        Entries of the state dict that have no gradient (`Evaluator.statistics`).

    Raises
    ------
    UserError
        If the strategy cannot work with so few clients.
    """
    _refuse_too_few_clients(config)
    return make_private(_build(config, statistics), config)


def restart(
    strategy: Strategy, config: RunConfig, statistics: frozenset[str] = frozenset()
) -> Strategy:
    """Return the strategy for a model that starts afresh.

    Momenta and variates belong to the old model and are forgotten; the privacy spent
    and an adapted clipping norm are kept.
    """
    return renew(strategy, _build(config, statistics))


def quorum(config: FederationConfig, num_asked: int) -> int:
    """Return how many of a round's clients must answer well.

    Examples
    --------
    >>> quorum(FederationConfig(quorum=0.5), 5)
    3
    >>> quorum(FederationConfig(strategy="krum", quorum=0.5), 5)
    3
    """
    least = STRATEGIES[config.strategy].least_replies(config.num_malicious_nodes)
    return max(least, ceil(config.quorum * num_asked - 1e-9))


def _build(config: RunConfig, statistics: frozenset[str]) -> Strategy:
    federation = config.federation
    entry = STRATEGIES[federation.strategy]
    keywords: dict[str, Any] = {
        name: getattr(federation, name) for name in entry.arguments
    }
    keywords |= dict.fromkeys(
        ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1
    )
    if adds_noise(config.privacy):
        keywords["weighted_by_key"] = EQUAL_WEIGHT
    if entry.build is Scaffold:
        keywords |= {"num_clients": config.num_clients, "statistics": statistics}
    if entry.build is _QFedAvg:
        keywords["client_learning_rate"] = (
            federation.client_learning_rate or config.train.lr
        )
        keywords["train_loss_key"] = "loss"
    strategy = entry.build(**keywords)
    if isinstance(strategy, _OptimizesParametersOnly):
        strategy.statistics = statistics
    return strategy


def _refuse_too_few_clients(config: RunConfig) -> None:
    federation = config.federation
    name, hostile = federation.strategy, federation.num_malicious_nodes
    asked = max(1, round(federation.fraction_train * config.num_clients))
    least = STRATEGIES[name].least_replies(hostile)
    if asked < least:
        raise UserError(
            f"`federation.strategy` is {name}, which needs {least} clients in a round "
            f"to withstand {hostile} hostile ones (`federation.num-malicious-nodes`), "
            f"found {asked} of {config.num_clients}; raise `num-clients` or "
            "`federation.fraction-train`."
        )
    selected = federation.num_nodes_to_select
    if name == "multikrum" and selected > asked - hostile:
        raise UserError(
            f"`federation.num-nodes-to-select` is {selected}; allowed: 1 to "
            f"{asked - hostile}, the round's clients less the hostile ones."
        )
