"""Messages to nodes and their replies, over nodes that come and go."""

import logging
from collections.abc import Callable, Collection, Sequence
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import CONFIG

__all__ = ["again", "exchange", "name_ledger"]

log = logging.getLogger("fairfal.server")

RESTART_SECONDS = 20.0  # a node is not back sooner
WAIT_SECONDS = 15.0  # before it is said who is waited for
LINE = ("httpx", "grpc")  # errors of these modules are the connection's, not a reply's

UNKNOWN = "the SuperLink does not take its message"
FOREIGN = "its reply says that it is from another"
UNREADABLE = "its reply cannot be read"


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    timeout: float,
    say_who_is_awaited: Callable[[Collection[int], float], None] = lambda *_: None,
    *,
    patient: bool = False,
) -> tuple[dict[int, Message], dict[int, str]]:
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
    lost : dict of int to str
        The nodes that are waited for no longer, and why: the SuperLink does not know
        them, or what came for them is not theirs or nothing that can be read.

    Raises
    ------
    UserError
        If the SuperLink takes no message, because they are too large.
    """
    started = monotonic()
    wait = _Wait(grid, messages, patient)
    next_word = WAIT_SECONDS
    while True:
        wait.look()
        waited = monotonic() - started
        if not wait.awaited or waited > timeout:
            return wait.replies, wait.lost
        if waited > next_word:
            say_who_is_awaited(wait.awaited, waited)
            next_word *= 2
        wait.ask_the_restarted(waited > RESTART_SECONDS)
        sleep(min(max(waited / 20, 0.02), 1.0))


class _Wait:
    """Who was asked, who has answered, and who is still waited for."""

    def __init__(self, grid: Grid, messages: Sequence[Message], patient: bool) -> None:
        self.grid, self.patient = grid, patient
        self.messages = {m.metadata.dst_node_id: m for m in messages}
        self.activated = _activations(grid)
        self.waiting: dict[str, int] = {}  # message id -> node
        self.gone: set[int] = set()
        self.doubted: set[int] = set()
        self.one_by_one = False
        self.replies: dict[int, Message] = {}
        self.lost: dict[int, str] = {}
        self._push(messages)

    @property
    def awaited(self) -> set[int]:
        """The nodes whose replies may still come."""
        return {*self.waiting.values(), *self.gone}

    def look(self) -> None:
        """Take the replies that have come since the last look."""
        for reply in self._pull():
            node = self.waiting.get(reply.metadata.reply_to_message_id)
            if node is None or not _is_from(reply, node):
                log.warning("dropped a reply that is not from the client it is for")
            if node is not None:
                self._take(reply, node)

    def ask_the_restarted(self, look_for_all: bool) -> None:
        """Ask those again who are back, or have lost the request in a restart."""
        if not (self.gone or look_for_all):
            return
        online = _activations(self.grid)
        restarted = {n for n, at in online.items() if at != self.activated.get(n)}
        back = restarted & set(self.waiting.values()) | self.gone & set(online)
        if back:
            log.warning("%d client(s) restarted and are asked again", len(back))
            self._ask_again(back)
        self.gone -= back
        self.activated |= online

    def _take(self, reply: Message, node: int) -> None:
        self._forget(node)
        if not _is_from(reply, node):
            self._doubt(node, FOREIGN)
        elif self.patient and _is_gone(reply, node):
            self.gone.add(node)
            log.warning("SuperNode %d is gone; waiting until it is back", node)
        else:
            self.replies[node] = reply

    def _pull(self) -> list[Message]:
        """Return what has come; where it cannot be read together, each by itself.

        What Flower had read of the others by then is lost, so all are asked again.
        """
        if self.one_by_one:
            return [
                r for m, n in list(self.waiting.items()) for r in self._pull_one(m, n)
            ]
        try:
            return list(self.grid.pull_messages(list(self.waiting)))
        except Exception as error:
            if _is_the_lines(error):
                raise
        log.warning("a reply cannot be read; who has not answered is asked again")
        self.one_by_one = True
        nodes = set(self.waiting.values())
        self.waiting = {}
        self._ask_again(nodes)
        return []

    def _pull_one(self, message_id: str, node: int) -> list[Message]:
        try:
            return list(self.grid.pull_messages([message_id]))
        except Exception as error:
            if _is_the_lines(error):
                raise
        self._forget(node)
        self.lost[node] = UNREADABLE
        return []

    def _doubt(self, node: int, why: str) -> None:
        """Ask a node once more, or give it up.

        The SuperLink hands out one reply for a message: once that was another's, the
        true one cannot come any more.
        """
        if node in self.doubted:
            self.lost[node] = why
        else:
            self.doubted.add(node)
            self._ask_again({node})

    def _forget(self, node: int) -> None:
        self.waiting = {m: n for m, n in self.waiting.items() if n != node}

    def _ask_again(self, nodes: Collection[int]) -> None:
        self._push([again(m) for n, m in self.messages.items() if n in nodes])

    def _push(self, messages: Sequence[Message]) -> None:
        nodes = [message.metadata.dst_node_id for message in messages]
        sent = list(self.grid.push_messages(messages))
        if len(sent) != len(nodes):
            raise UserError(
                "The SuperLink does not take the messages of this run, which are as "
                "large as the model; its log says why."
            )
        for message_id, node in zip(sent, nodes, strict=True):
            if message_id:
                self.waiting[message_id] = node
            else:
                self.lost[node] = UNKNOWN


def _activations(grid: Grid) -> dict[int, str]:
    """Return when each node that is online was activated, where the grid knows."""
    return {node.node_id: node.last_activated_at for node in grid.get_nodes()}


def _is_from(reply: Message, node: int) -> bool:
    """Tell whether a reply is the asked node's own, or Flower's for it.

    In a deployment a node itself writes which message it answers, and who it is.
    """
    return reply.has_error() or reply.metadata.src_node_id == node


def _is_gone(reply: Message, node: int) -> bool:
    """Tell whether Flower says that a node is gone; one that says so itself is not."""
    if not reply.has_error() or reply.metadata.src_node_id == node:
        return False
    return reply.error.code == ErrorCode.NODE_UNAVAILABLE


def _is_the_lines(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in LINE


def again(message: Message) -> Message:
    """Return the same request as a new message."""
    metadata = message.metadata
    return Message(
        message.content,
        dst_node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
    )


def name_ledger(message: Message, head: list[int]) -> None:
    """Write into a request, for its client alone, the head of the client's ledger."""
    content = message.content
    own = ConfigRecord({**content.config_records[CONFIG], "ledger": head})
    message.content = RecordDict({**content, CONFIG: own})
