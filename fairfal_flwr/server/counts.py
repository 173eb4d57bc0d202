"""What the replies of a query come to, client by client."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import SelectReply
from fairfal_flwr.server.state import CampaignState

__all__ = ["Limits", "Standing", "global_queries", "labels_of", "most_labels"]


class Limits(NamedTuple):
    """What a client can have asked for, by the run's config.

    Parameters
    ----------
    samples : int
        Images that it has.
    selected, asked : int
        Samples asked for in this cycle, and up to it.
    """

    samples: int
    selected: int
    asked: int

    @classmethod
    def of(cls, config: RunConfig, num_samples: int, cycle: int) -> Self:
        """Return the limits of a client with some images in a cycle.

        What people set aside is asked anew, and they may tell it after all: with them a
        client can have up to twice as many as the budget.
        """
        budget = config.campaign.labels_per_cycle(num_samples)
        if config.annotation.by == "oracle":
            return cls(num_samples, budget, min(num_samples, cycle * budget))
        most = min(num_samples, 2 * cycle * budget)
        return cls(num_samples, most, most)


@dataclass(frozen=True)
class Standing:
    """How far the answers to a cycle's questions are.

    Parameters
    ----------
    cycle : int
        Whose.
    open, labeled : Mapping[int, int]
        Questions without an answer, and labels, by client as each last said.
    seconds_left : float or None
        To the deadline; None without one.
    """

    cycle: int
    open: Mapping[int, int]
    labeled: Mapping[int, int]
    seconds_left: float | None

    @property
    def num_open(self) -> int:
        """Open questions of all clients."""
        return sum(self.open.values())


def labels_of(
    replies: Mapping[int, SelectReply], state: CampaignState
) -> dict[int, int]:
    """Return each client's labels; who was left out has those of before.

    Raises
    ------
    UserError
        If nobody has a label.
    """
    before = dict.fromkeys(state.samples, 0) | dict(state.labels)
    labels = before | {client: reply.num_labeled for client, reply in replies.items()}
    if not any(labels.values()):
        raise UserError("No client has a labeled image; there is nothing to train.")
    return labels


def most_labels(
    replies: Mapping[int, SelectReply],
    state: CampaignState,
    limits: Mapping[int, Limits],
) -> dict[int, int]:
    """Return the labels that each client can have when the cycle's training begins.

    A person may have answered since the client was last heard. The answer of a client
    that is left out may be lost on its way, so it can have a cycle's labels more than
    the server knows, and never more than if it had answered.
    """
    return {
        client: reply.num_labeled + reply.num_open + reply.num_set_aside
        if (reply := replies.get(client))
        else min(
            limits[client].asked,
            state.most_labels.get(client, 0) + limits[client].selected,
        )
        for client in state.samples
    }


def global_queries(replies: Mapping[int, SelectReply]) -> int | None:
    """Return how many clients the global model judged for; None where none says."""
    choices = [r.global_query for r in replies.values() if r.global_query >= 0]
    return sum(choices) if choices else None
