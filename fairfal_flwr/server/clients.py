"""The clients of a campaign: who they are, and how they are asked."""

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fairfal_flwr.config import FederationConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import Reply, Request, StatusReply, StatusRequest
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.server.exchange import again, exchange
from fairfal_flwr.server.replies import check_status_reply
from fairfal_flwr.server.strategies import quorum

__all__ = ["Check", "Clients", "Notify"]

log = logging.getLogger("fairfal.server")

ReplyT = TypeVar("ReplyT", bound=Reply)

LONGEST_LINE = 300

# Raises ValueError for the content of a client's reply that cannot be used.
Check = Callable[[RecordDict, int], None]
Notify = Callable[..., None]  # an event's kind, and its facts as keywords


class Clients:
    """The SuperNodes that take part, each known by its client's index.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    federation : FederationConfig
        How long to wait, how often to ask again and how many must answer.
    notify : callable
        Told what happens: who is asked and awaited, whose reply is dropped and why.
    """

    def __init__(
        self, grid: Grid, federation: FederationConfig, notify: Notify
    ) -> None:
        self.grid = grid
        self.federation = federation
        self.notify = notify
        self.nodes: dict[int, int] = {}  # client index -> Flower's node id, ascending

    def client_of(self, node: int) -> int:
        """Return the client that a node is."""
        return self._clients()[node]

    def meet(self, request: StatusRequest, wanted: int) -> dict[int, StatusReply]:
        """Learn which node is which client; return what each says, ascending.

        Raises
        ------
        UserError
            If there are not as many as wanted, two are the same client, or one cannot
            do its part.
        """
        nodes = self._connected_nodes(wanted)
        replies = self._ask_all(
            request, nodes, lambda content, _: check_status_reply(content, wanted)
        )
        statuses = {
            node: StatusReply.from_content(reply.content)
            for node, reply in replies.items()
        }
        self.nodes = dict(
            sorted((status.client, node) for node, status in statuses.items())
        )
        if len(self.nodes) != len(nodes):
            raise UserError(
                "Two SuperNodes are the same client; give each its own `partition-id`."
            )
        return {client: statuses[node] for client, node in self.nodes.items()}

    def ask(
        self, request: Request, reply_type: type[ReplyT], check: Check
    ) -> dict[int, ReplyT]:
        """Ask every client; return the replies by client, ascending.

        Raises
        ------
        UserError
            If one did not answer well.
        """
        replies = self._ask_all(request, self.nodes.values(), check)
        return {
            client: reply_type.from_content(replies[node].content)
            for client, node in self.nodes.items()
        }

    def ask_who_can(self, messages: Iterable[Message], check: Check) -> list[Message]:
        """Return the good replies, in the order of the clients; the others are named.

        Parameters
        ----------
        messages : iterable of Message
            The requests.
        check : callable
            See `Check`.
        """
        good, problems = self.send(list(messages), check)
        for problem in problems:
            log.warning("left out of the clients' evaluation: %s", problem)
        return list(good.values())

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
            See `Check`.
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
            waiting = {n: again(m) for n, m in waiting.items() if n not in good}
            for problem in problems:
                log.warning("left out of this round: %s", problem)
            if len(good) >= needed:
                return [good[node] for node in self.nodes.values() if node in good]
            if not waiting:
                problems = ["the other clients have no label"]
                break
            if repetition < federation.round_retries:
                self.notify(EventKind.ASKED_AGAIN, clients=self._names(waiting))
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
        self, messages: Sequence[Message], check: Check, *, patient: bool = False
    ) -> tuple[dict[int, Message], list[str]]:
        """Send messages; return the good replies by node, and what is wrong otherwise.

        Both are in the order of the clients, which makes sums, and so the run,
        independent of who answered first. `patient`: see `exchange`.
        """
        timeout = self.federation.round_timeout
        started = monotonic()
        replies, refused = exchange(
            self.grid, messages, timeout, self._say_who_is_awaited, patient=patient
        )
        good, problems = self._sort_out(messages, replies, refused, check)
        self.notify(
            EventKind.EXCHANGED,
            message=messages[0].metadata.message_type,
            asked=self._names(message.metadata.dst_node_id for message in messages),
            answered=self._names(good),
            seconds=monotonic() - started,
            bytes_sent=sum(_size(message.content) for message in messages),
            bytes_received=sum(_size(reply.content) for reply in good.values()),
        )
        return good, list(problems.values())

    def _sort_out(
        self,
        messages: Sequence[Message],
        replies: dict[int, Message],
        refused: set[int],
        check: Check,
    ) -> tuple[dict[int, Message], dict[int, str]]:
        """Return good replies and problems by node, in the order of the clients."""
        clients = self._clients()
        good: dict[int, Message] = {}
        problems: dict[int, str] = {}
        asked = [message.metadata.dst_node_id for message in messages]
        for node in sorted(asked, key=lambda node: clients.get(node, node)):
            reply = replies.get(node)
            if node in refused:
                problem: str | None = "the SuperLink does not take its message"
            elif reply is None:
                problem = f"no answer within {self.federation.round_timeout:g} s"
            else:
                problem = _problem(reply, check, clients.get(node, -1))
            if problem is not None:
                self.notify(
                    EventKind.REPLY_DROPPED, client=clients.get(node), reason=problem
                )
                problems[node] = f"{self._name(node)}: {problem}"
            elif reply is not None:
                good[node] = reply
        return good, problems

    def _ask_all(
        self, request: Request, nodes: Iterable[int], check: Check
    ) -> dict[int, Message]:
        content, kind = request.to_content(), request.message_type
        good, problems = self.send(
            [Message(content, dst_node_id=node, message_type=kind) for node in nodes],
            check,
            patient=True,
        )
        if problems:
            raise UserError("; ".join(problems))
        return good

    def _say_who_is_awaited(self, nodes: Iterable[int], seconds: float) -> None:
        self.notify(EventKind.WAITING, clients=self._names(nodes), seconds=seconds)

    def _clients(self) -> dict[int, int]:
        """Return the client that each node is, as far as known."""
        return {node: client for client, node in self.nodes.items()}

    def _name(self, node: int) -> str:
        client = self._clients().get(node)
        return f"SuperNode {node}" if client is None else f"client {client}"

    def _names(self, nodes: Iterable[int]) -> list[int]:
        """Return the clients that some nodes are, ascending; the unknown left out."""
        clients = self._clients()
        return sorted(clients[node] for node in nodes if node in clients)

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


def _problem(reply: Message, check: Check, client: int) -> str | None:
    """Return in one line what is wrong with a reply, None if nothing is."""
    if reply.has_error():
        return _first_line(reply.error.reason)
    try:
        check(reply.content, client)
    except ValueError as error:
        return _one_line(str(error))
    except Exception as error:  # the content is the client's, and so is any way to fail
        return f"its reply cannot be read ({type(error).__name__})"
    return None


def _size(content: RecordDict) -> int:
    """Return the bytes of the arrays; all else together is less than a kilobyte."""
    return sum(record.count_bytes() for record in content.array_records.values())


def _first_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return _one_line(lines[0]) if lines else "failed without a reason"


def _one_line(text: str) -> str:
    """Return what a client wrote, or brought about, as one line of bearable length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"
