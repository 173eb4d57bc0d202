"""From a Flower message and context to the participant that answers it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.app import Context, Message, RecordDict

from fairfal_flwr.client.mods import with_privacy
from fairfal_flwr.client.participant import Participant, find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.console import show_log
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import Reply, Request, TrainRequest, answer, refuse

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
    try:
        config = RunConfig.from_flat(context.run_config)
    except UserError as error:
        return refuse(message, error)

    def respond(content: RecordDict) -> Reply:
        request = request_type.from_content(content)
        index = client_index(context.node_config, config.num_clients)
        data_path = str(context.node_config.get("data-path", ""))
        participant = find_participant(config, index, request.campaign, data_path)
        return handle(participant, request)

    def app(message: Message, _context: Context) -> Message:
        return answer(message, respond)

    show_log()
    protects = request_type is TrainRequest
    return (with_privacy(app, config.privacy) if protects else app)(message, context)


def client_index(node_config: Mapping[str, Any], num_clients: int) -> int:
    """Return which of the clients a node is.

    Parameters
    ----------
    node_config : Mapping[str, Any]
        Flower's `partition-id` and `num-partitions`; simulation sets both. A node with
        a `data-path` of its own has no share of anything and needs no
        `num-partitions`; its `partition-id` still says which client it is.
    num_clients : int
        The run's clients.

    Raises
    ------
    UserError
        If the keys are missing or contradict the run config.
    """
    example = f"partition-id=0 num-partitions={num_clients}"
    needed = {"partition-id", "num-partitions"}
    if "data-path" in node_config:
        example = f'data-path="{node_config["data-path"]}" partition-id=0'
        needed = {"partition-id"}
    if missing := needed - set(node_config):
        raise UserError(
            f"The node config has no {' and no '.join(sorted(missing))}; start the "
            f"SuperNode with --node-config '{example}' (ids from 0)."
        )
    index = int(node_config["partition-id"])
    count = int(node_config.get("num-partitions", num_clients))
    if count != num_clients or not 0 <= index < count:
        raise UserError(
            f"The node config says partition {index} of {count}, but `num-clients` is "
            f"{num_clients}; allowed: partition-id 0 to {num_clients - 1}, "
            f"num-partitions {num_clients}."
        )
    return index
