"""The clients of a campaign: who they are, and how they are asked."""

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep
from typing import TypeVar

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fairfal_flwr.config import FederationConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import Reply, Request, StatusReply, StatusRequest
from fairfal_flwr.server.strategies import quorum

__all__ = ["Check", "Clients"]

log = logging.getLogger("fairfal.server")

ReplyT = TypeVar("ReplyT", bound=Reply)
RESTART_SECONDS = 20.0  # a node is not back sooner
Check = Callable[[Message], None]  # raises ValueError for a reply not to use


class Clients:
    """The SuperNodes that take part, each known by its client's index.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    federation : FederationConfig
        How long to wait, how often to ask again and how many must answer.
    """

    def __init__(self, grid: Grid, federation: FederationConfig) -> None:
        self.grid = grid
        self.federation = federation
        self.nodes: dict[int, int] = {}  # client index -> Flower's node id, ascending

    def meet(self, request: StatusRequest, wanted: int) -> dict[int, StatusReply]:
        """Learn which node is which client; return what each says, by node.

        Raises
        ------
        UserError
            If there are not as many as wanted, two are the same client, or one cannot
            do its part.
        """
        nodes = self._connected_nodes(wanted)
        statuses = {
            node: StatusReply.from_content(reply.content)
            for node, reply in self._ask_all(request, nodes).items()
        }
        self.nodes = dict(
            sorted((status.client, node) for node, status in statuses.items())
        )
        if len(self.nodes) != len(nodes):
            raise UserError(
                "Two SuperNodes are the same client; give each its own `partition-id`."
            )
        return statuses

    def ask(self, request: Request, reply_type: type[ReplyT]) -> dict[int, ReplyT]:
        """Ask every client; return the replies by client, ascending.

        Raises
        ------
        UserError
            If one did not answer well.
        """
        replies = self._ask_all(request, self.nodes.values())
        return {
            client: reply_type.from_content(replies[node].content)
            for client, node in self.nodes.items()
        }

    def ask_quorum(
        self, messages: Iterable[Message], check: Check, what: str
    ) -> list[Message]:
        """Return the replies to use, in the order of the clients.

        Clients that did not answer, or not well, are asked again until the quorum is
        there; training again from the same request gives the same reply.

        Parameters
        ----------
        messages : iterable of Message
            The requests.
        check : callable
            Raises ValueError for a reply that cannot be used.
        what : str
            The round, for people.

        Raises
        ------
        UserError
            If the quorum is not there after `federation.round-retries` repetitions.
        """
        federation = self.federation
        waiting = {message.metadata.dst_node_id: message for message in messages}
        asked, needed = len(waiting), quorum(federation, len(waiting))
        good: dict[int, Message] = {}
        problems: list[str] = []
        for repetition in range(federation.round_retries + 1):
            replies, problems = self.send(list(waiting.values()), check)
            good |= replies
            waiting = {n: _again(m) for n, m in waiting.items() if n not in good}
            for problem in problems:
                log.warning("left out of this round: %s", problem)
            if len(good) >= needed:
                return [good[node] for node in self.nodes.values() if node in good]
            if not waiting:
                problems = ["the other clients have no label"]
                break
            if repetition < federation.round_retries:
                log.warning(
                    "%s has %d of the %d replies it needs; asking again",
                    what,
                    len(good),
                    needed,
                )
        raise UserError(
            f"{what}: {len(good)} of {asked} clients answered well, but "
            f"`federation.quorum` = {federation.quorum:g} with {federation.strategy} "
            f"needs {needed}, also after {federation.round_retries} repetitions "
            f"(`federation.round-retries`); {'; '.join(problems)}."
        )

    def send(
        self,
        messages: Sequence[Message],
        check: Check | None = None,
        *,
        patient: bool = False,
    ) -> tuple[dict[int, Message], list[str]]:
        """Send messages; return the good replies by node, and what is wrong otherwise.

        Both are in the order of the clients, which makes sums, and so the run,
        independent of who answered first. `patient`: see `exchange`.
        """
        order = {node: client for client, node in self.nodes.items()}
        timeout = self.federation.round_timeout
        replies, refused = exchange(self.grid, messages, timeout, patient=patient)
        good: dict[int, Message] = {}
        problems = []
        asked = [message.metadata.dst_node_id for message in messages]
        for node in sorted(asked, key=lambda node: order.get(node, node)):
            who = f"client {order[node]}" if node in order else f"SuperNode {node}"
            if node in refused:
                problems.append(f"{who}: the SuperLink does not take its message")
            elif (reply := replies.get(node)) is None:
                problems.append(f"{who} did not answer within {timeout:g} s")
            elif problem := _problem(reply, check):
                problems.append(f"{who}: {problem}")
            else:
                good[node] = reply
        return good, problems

    def _ask_all(self, request: Request, nodes: Iterable[int]) -> dict[int, Message]:
        content, kind = request.to_content(), request.message_type
        good, problems = self.send(
            [Message(content, dst_node_id=node, message_type=kind) for node in nodes],
            patient=True,
        )
        if problems:
            raise UserError("; ".join(problems))
        return good

    def _connected_nodes(self, wanted: int) -> list[int]:
        """Wait for the run's SuperNodes; anything else is a mistake."""
        deadline = monotonic() + self.federation.connect_timeout
        while len(nodes := list(self.grid.get_node_ids())) < wanted:
            if monotonic() > deadline:
                break
            sleep(0.1)
        if len(nodes) != wanted:
            raise UserError(
                f"`num-clients` is {wanted} but {len(nodes)} SuperNodes are connected; "
                'in simulation run: flwr run . --federation-config "num-supernodes='
                f'{wanted} client-resources-num-cpus=1" (or set num-clients).'
            )
        return nodes


def exchange(
    grid: Grid, messages: Sequence[Message], timeout: float, *, patient: bool = False
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
        if gone or waited > RESTART_SECONDS:
            online = _activations(grid)
            restarted = {n for n, at in online.items() if at != activated.get(n)}
            back = restarted & set(waiting.values()) | gone & set(online)
            again = [m for m in messages if m.metadata.dst_node_id in back]
            if again:
                log.warning("%d client(s) restarted and are asked again", len(again))
                waiting |= _push(grid, [_again(message) for message in again])[0]
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


def _again(message: Message) -> Message:
    """Return the same request as a new message."""
    metadata = message.metadata
    return Message(
        message.content,
        dst_node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
    )


def _problem(reply: Message, check: Check | None) -> str | None:
    """Return in one line what is wrong with a reply, None if nothing is."""
    if reply.has_error():
        return _first_line(reply.error.reason)
    try:
        if check is not None:
            check(reply)
    except ValueError as error:
        return str(error)
    return None


def _first_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0] if lines else "failed without a reason"
