"""From a Flower message and context to the participant that answers it."""

import logging
from collections.abc import Callable, Mapping
from secrets import token_hex
from traceback import walk_tb
from typing import Any, TypeVar

import torch
from flwr.app import Context, Message, RecordDict

from fairfal_flwr.client.ledger_chain import Head
from fairfal_flwr.client.ledger_check import check_never_was
from fairfal_flwr.client.mods import with_privacy
from fairfal_flwr.client.participant import Participant, find_participant
from fairfal_flwr.client.policy import Policy, default_policy, find_policy
from fairfal_flwr.client.site_book import SiteBook
from fairfal_flwr.config import RunConfig
from fairfal_flwr.console import show_log
from fairfal_flwr.errors import RefusalError, UserError
from fairfal_flwr.messages import (
    Reply,
    Request,
    SelectRequest,
    TrainRequest,
    answer,
    refuse,
)
from fairfal_flwr.paths import ledger_file, site_book

__all__ = ["client_index", "explain", "serve"]

log = logging.getLogger("fairfal.client")

# What an error is about, by the beginning of the module that raised it.
ROOMS = {
    "client.ledger": "ledger",
    "client.policy": "policy",
    "client.site_book": "ledger",
    "client.round_files": "ledger",
    "data": "data",
    "device": "device",
    "models": "data",
}

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
    show_log()
    policy = default_policy()
    try:
        policy = find_policy(context.node_config)
        return _answer(message, context, request_type, handle, policy)
    except Exception as error:  # whatever it is, the server must not learn of the host
        return refuse(message, explain(error, full=policy.errors == "full"))


def _answer(
    message: Message,
    context: Context,
    request_type: type[RequestT],
    handle: Callable[[Participant, RequestT], Reply],
    policy: Policy,
) -> Message:
    policy.admit_strategy(context.run_config)
    config = RunConfig.from_flat(context.run_config)
    data_path = str(context.node_config.get("data-path", ""))
    policy.admit_config(config, data_path)
    index = client_index(context.node_config, config.num_clients)
    book = SiteBook(site_book(), index)

    def app(message: Message, _context: Context) -> Message:
        request = _read(request_type, message.content)
        policy.admit_request(request, config)
        known = Head.from_numbers(request.ledger)
        path = ledger_file(config.state_dir, request.campaign, index)
        if not path.exists():
            check_never_was(path, known)
        participant = find_participant(config, index, request.campaign, data_path)
        participant.ledger.check_contains(known)
        _admit_cycle(policy, request, participant, book)
        return answer(message, handle(participant, request))

    if request_type is not TrainRequest:
        return app(message, context)
    protected = with_privacy(app, config.privacy, book, policy.noisy_releases)
    return protected(message, context)


def _read(request_type: type[RequestT], content: RecordDict) -> RequestT:
    try:
        return request_type.from_content(content)
    except ValueError as error:
        raise RefusalError(str(error)) from None


def _admit_cycle(
    policy: Policy, request: Request, participant: Participant, book: SiteBook
) -> None:
    """Check what only the client's ledger and images tell."""
    ledger = participant.ledger
    policy.admit_cycle(request, ledger)
    if isinstance(request, SelectRequest) and not ledger.knows_cycle(request.cycle):
        wanted = participant.pool.wanted(request.cycle)
        policy.admit_labels(request, wanted, book)


def explain(error: Exception, *, full: bool) -> str:
    """Return what the server is told of an error; the site's log has the rest.

    Parameters
    ----------
    error : Exception
        A `UserError`'s line names files and folders, any other error's may too.
    full : bool
        Whether the server may read them.
    """
    line = " ".join(str(error).split())
    if isinstance(error, UserError) and full:
        return line
    kind, mark = _category(error), token_hex(3)
    defect = None if isinstance(error, UserError) else error
    log.error("%s error %s: %s", kind, mark, line, exc_info=defect)
    if full:
        return f"{type(error).__name__}: {line}"
    told = line if isinstance(error, RefusalError) else "the site's log says what it is"
    return f"{kind} error {mark}: {told}"


def _category(error: Exception) -> str:
    """Say what an error is about, by the room of the house that raised it."""
    if isinstance(error, torch.OutOfMemoryError):
        return "device"
    if not isinstance(error, UserError):
        return "internal"
    if isinstance(error, RefusalError):
        return "policy"
    *_, (frame, _) = walk_tb(error.__traceback__)
    module = frame.f_globals["__name__"].removeprefix("fairfal_flwr.")
    return next(
        (kind for room, kind in ROOMS.items() if module.startswith(room)), "config"
    )


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
