"""Messages to nodes and their replies, over nodes that come and go."""

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fairfal_flwr.errors import UserError

__all__ = ["again", "exchange"]

log = logging.getLogger("fairfal.server")

RESTART_SECONDS = 20.0  # a node is not back sooner
WAIT_SECONDS = 10.0  # before it is said who is waited for


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    timeout: float,
    say_who_is_awaited: Callable[[Iterable[int], float], None] = lambda *_: None,
    *,
    patient: bool = False,
) -> tuple[dict[int, Message], set[int]]:
    """Send messages and wait for their replies.

    `Grid.send_and_receive` looks every 3 seconds in a deployment. This looks as often
    as the wait so far justifies: a reply is seen at most a twentieth of its own time
    after it came, and at most a second.

    A node that restarts has lost what it was doing, and Flower does not say so where it
    is back before it was missed. It gets the request again: the same request gives the
    same reply, and the first one that comes is taken.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    messages : sequence of Message
        At most one for each node.
    timeout : float
        Seconds to wait.
    say_who_is_awaited : callable, optional
        Told the nodes and the seconds so far, each time the wait has doubled.
    patient : bool, default False
        Wait for a node that is gone, and ask it again when it is back, in place of
        taking Flower's reply for it.

    Returns
    -------
    replies : dict of int to Message
        Those that came, by the node that was asked. Flower's own for a node that is
        gone is one of them, whoever it says it is from. What a node writes in place of
        another, or twice, is left out.
    refused : set of int
        Nodes whose message the SuperLink does not take: they are no longer known.

    Raises
    ------
    UserError
        If the SuperLink takes none, because they are too large.
    """
    activated = _activations(grid)
    started = monotonic()
    waiting, refused = _push(grid, messages)
    replies: dict[int, Message] = {}
    gone: set[int] = set()
    next_word = WAIT_SECONDS
    while True:
        for reply in grid.pull_messages(list(waiting)):
            node = waiting.get(reply.metadata.reply_to_message_id)
            if node is None or not _is_from(reply, node):
                log.warning("dropped a reply that is not from the client it is for")
                continue
            waiting = {sent: n for sent, n in waiting.items() if n != node}
            if patient and _is_gone(reply):
                gone.add(node)
                log.warning("SuperNode %d is gone; waiting until it is back", node)
            else:
                replies[node] = reply
        waited = monotonic() - started
        if not (waiting or gone) or waited > timeout:
            return replies, refused
        if waited > next_word:
            say_who_is_awaited({*waiting.values(), *gone}, waited)
            next_word *= 2
        if gone or waited > RESTART_SECONDS:
            online = _activations(grid)
            restarted = {n for n, at in online.items() if at != activated.get(n)}
            back = restarted & set(waiting.values()) | gone & set(online)
            repeated = [again(m) for m in messages if m.metadata.dst_node_id in back]
            if repeated:
                log.warning("%d client(s) restarted and are asked again", len(repeated))
                taken, unknown = _push(grid, repeated)
                waiting, refused = waiting | taken, refused | unknown
            gone -= back
            activated |= online
        sleep(min(max(waited / 20, 0.02), 1.0))


def _activations(grid: Grid) -> dict[int, str]:
    """Return when each node that is online was activated, where the grid knows."""
    return {node.node_id: node.last_activated_at for node in grid.get_nodes()}


def _push(grid: Grid, messages: Sequence[Message]) -> tuple[dict[str, int], set[int]]:
    """Send messages; return the nodes by message, and those no longer known."""
    nodes = [message.metadata.dst_node_id for message in messages]
    sent = list(grid.push_messages(messages))
    if len(sent) != len(nodes):
        raise UserError(
            "The SuperLink does not take the messages of this run, which are as large "
            "as the model; its log says why."
        )
    pairs = list(zip(sent, nodes, strict=True))
    taken = {message_id: node for message_id, node in pairs if message_id}
    return taken, {node for message_id, node in pairs if not message_id}


def _is_from(reply: Message, node: int) -> bool:
    """Tell whether a reply is the asked node's own, or Flower's for it.

    In a deployment a node itself writes which message it answers, and who it is.
    """
    return reply.has_error() or reply.metadata.src_node_id == node


def _is_gone(reply: Message) -> bool:
    return reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE


def again(message: Message) -> Message:
    """Return the same request as a new message."""
    metadata = message.metadata
    return Message(
        message.content,
        dst_node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
    )
