"""From a Flower message and context to the participant that answers it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.app import Context, Message, RecordDict

from fairfal_flwr.client.participant import Participant, find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.console import show_log
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import Reply, Request, answer

__all__ = ["client_index", "serve"]

RequestT = TypeVar("RequestT", bound=Request)


def serve(
    message: Message,
    context: Context,
    request_type: type[RequestT],
    handle: Callable[[Participant, RequestT], Reply],
) -> Message:
    """Answer a message with a method of this node's participant.

    Parameters
    ----------
    message, context
        As Flower hands them to a ClientApp.
    request_type : type
        The message's dataclass.
    handle : callable
        The method of `Participant` that answers it.
    """

    def respond(content: RecordDict) -> Reply:
        config = RunConfig.from_flat(context.run_config)
        request = request_type.from_content(content)
        index = client_index(context.node_config, config.num_clients)
        return handle(find_participant(config, index, request.campaign), request)

    show_log()
    return answer(message, respond)


def client_index(node_config: Mapping[str, Any], num_clients: int) -> int:
    """Return which of the clients a node is.

    Parameters
    ----------
    node_config : Mapping[str, Any]
        Flower's `partition-id` and `num-partitions`; simulation sets both.
    num_clients : int
        The run's clients.

    Raises
    ------
    UserError
        If the keys are missing or contradict the run config.
    """
    missing = {"partition-id", "num-partitions"} - set(node_config)
    if missing:
        raise UserError(
            f"The node config has no {' and no '.join(sorted(missing))}; start the "
            "SuperNode with --node-config 'partition-id=0 num-partitions="
            f"{num_clients}' (ids from 0)."
        )
    index, count = int(node_config["partition-id"]), int(node_config["num-partitions"])
    if count != num_clients or not 0 <= index < count:
        raise UserError(
            f"The node config says partition {index} of {count}, but `num-clients` is "
            f"{num_clients}; allowed: partition-id 0 to {num_clients - 1}, "
            f"num-partitions {num_clients}."
        )
    return index
