"""Flower's aggregation strategies, by name."""

from collections.abc import Callable

from flwr.serverapp.strategy import FedAvg, Strategy

from fairfal_flwr.config import FederationConfig

__all__ = ["STRATEGIES", "make_strategy"]


def _fedavg() -> Strategy:
    """Weights = labeled counts. Which clients take part is decided by the campaign."""
    return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


STRATEGIES: dict[str, Callable[[], Strategy]] = {"fedavg": _fedavg}


def make_strategy(config: FederationConfig) -> Strategy:
    """Return the strategy that `federation.strategy` names."""
    return STRATEGIES[config.strategy]()
