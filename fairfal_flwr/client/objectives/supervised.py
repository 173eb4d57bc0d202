"""The cross-entropy on the labels."""

from fairfal_flwr.client.objectives.registry import objective
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import Objective, supervised_loss

__all__ = ["supervised"]


@objective("supervised")
def supervised(_this: Round) -> Objective:
    """Return the mean cross-entropy of a batch."""
    return supervised_loss
