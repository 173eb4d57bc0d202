"""What the replies of a query come to, client by client."""

from collections.abc import Mapping

from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import SelectReply
from fairfal_flwr.server.state import CampaignState

__all__ = ["global_queries", "labels_of", "most_labels"]


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
    budgets: Mapping[int, int],
) -> dict[int, int]:
    """Return the labels that each client can have by now.

    The answer of a client that is left out may be lost on its way, so it can have a
    cycle's labels more than the server knows, and never more than if it had answered.
    """
    return {
        client: replies[client].num_labeled
        if client in replies
        else min(num_samples, state.most_labels.get(client, 0) + budgets[client])
        for client, num_samples in state.samples.items()
    }


def global_queries(replies: Mapping[int, SelectReply]) -> int | None:
    """Return how many clients the global model judged for; None where none says."""
    choices = [r.global_query for r in replies.values() if r.global_query >= 0]
    return sum(choices) if choices else None
