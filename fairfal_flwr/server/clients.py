"""The clients of a campaign: who they are, and how they are asked."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby
from math import ceil
from time import monotonic, sleep
from typing import NamedTuple, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fairfal_flwr.config import FederationConfig
from fairfal_flwr.console import duration
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import Reply, Request, StatusReply, StatusRequest
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.server.exchange import again, exchange, name_ledger
from fairfal_flwr.server.replies import Check, check_status_reply, problem_of
from fairfal_flwr.server.strategies import quorum

__all__ = ["Answers", "Clients", "Judge", "Notify"]

log = logging.getLogger("fairfal.server")

ReplyT = TypeVar("ReplyT", bound=Reply)

LOGGED_WAIT = 60.0  # seconds without a word on the screen

# What is wrong with some of the replies beside the others, by node.
Judge = Callable[[Mapping[int, Message]], dict[int, str]]
Notify = Callable[..., None]  # an event's kind, and its facts as keywords


class Answers(NamedTuple):
    """What came of messages, by node and in the order of the clients.

    Parameters
    ----------
    good : dict of int to Message
        The replies that can be used.
    problems : dict of int to str
        What is wrong with the others.
    silent : set of int
        Those of the others from whom nothing came.
    """

    good: dict[int, Message]
    problems: dict[int, str]
    silent: set[int]


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
        self.unheard: set[int] = set()  # nodes that did not answer when last heard
        self.ledgers: Mapping[int, list[int]] = {}  # client -> head of its ledger

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
        replies, problems = self._ask_patiently(
            request,
            nodes,
            lambda content, _: check_status_reply(content, wanted),
            "Meeting the clients",
        )
        if problems:
            raise UserError("; ".join(self._said(problems)))
        statuses = {
            node: StatusReply.from_content(reply.content)
            for node, reply in replies.items()
        }
        self.nodes = dict(
            sorted((status.client, node) for node, status in statuses.items())
        )
        if len(self.nodes) != len(nodes):
            said = ", ".join(f"{n} client {s.client}" for n, s in statuses.items())
            raise UserError(
                "Two SuperNodes are the same client; give each its own `partition-id`; "
                f"they say: {said}."
            )
        return {client: statuses[node] for client, node in self.nodes.items()}

    def ask(
        self,
        request: Request,
        reply_type: type[ReplyT],
        check: Check,
        *,
        what: str,
        share: float,
    ) -> dict[int, ReplyT]:
        """Ask every client; return the replies to use by client, ascending.

        Who is gone is waited for, and who does not answer well is asked again, up to
        `federation.round-retries` times; then it goes on without them.

        Parameters
        ----------
        request : Request
            The same for all.
        reply_type : type
            Of the replies.
        check : callable
            See `Check`.
        what : str
            What is asked, for people.
        share : float
            Fraction of the clients that must answer well (`annotation.quorum`).

        Raises
        ------
        UserError
            If fewer do.
        """
        asked = len(self.nodes)
        good, problems = self._ask_patiently(request, self.nodes.values(), check, what)
        needed = ceil(share * asked - 1e-9)
        if len(good) < needed:
            raise UserError(
                f"{what}: {len(good)} of {asked} clients answered well, but "
                f"`annotation.quorum` = {share:g} needs {needed}, also after "
                f"{self.federation.round_retries} repetitions "
                f"(`federation.round-retries`); {'; '.join(self._said(problems))}."
            )
        if problems:
            self.notify(EventKind.LEFT_OUT, what=what, clients=self._names(problems))
            log.warning("%s: goes on without %s", what, self._list(problems))
        return self._read(good, reply_type)

    def hear(
        self,
        request: Request,
        reply_type: type[ReplyT],
        check: Check,
        *,
        among: Collection[int],
        timeout: float,
    ) -> dict[int, ReplyT]:
        """Ask some clients; return by client what those say who answer well in time.

        Nobody is missed: who does not answer is named once, until it answers again.

        Parameters
        ----------
        request : Request
            The same for all.
        reply_type : type
            Of the replies.
        check : callable
            See `Check`.
        among : collection of int
            The clients to ask.
        timeout : float
            Seconds to wait, at most those of a round; a client that is back later does
            not get the request.
        """
        timeout = min(timeout, self.federation.round_timeout)
        content, kind = request.to_content(), request.message_type
        messages = [
            Message(content, dst_node_id=node, message_type=kind, ttl=timeout)
            for client, node in self.nodes.items()
            if client in among
        ]
        answers = self.send(messages, check, timeout=timeout)
        fresh = {n: p for n, p in answers.problems.items() if n not in self.unheard}
        for line in self._said(fresh):
            log.warning("%s; going on with what was said before", line)
        self.unheard = set(answers.problems)
        return self._read(answers.good, reply_type)

    def ask_who_can(self, messages: Iterable[Message], check: Check) -> list[Message]:
        """Return the good replies, in the order of the clients; the others are named.

        Parameters
        ----------
        messages : iterable of Message
            The requests.
        check : callable
            See `Check`.
        """
        good, problems, _ = self.send(list(messages), check)
        for line in self._said(problems):
            log.warning("left out of the clients' evaluation: %s", line)
        return list(good.values())

    def ask_quorum(
        self, messages: Iterable[Message], check: Check, what: str, judge: Judge
    ) -> list[Message]:
        """Return the replies to use, in the order of the clients.

        Clients that did not answer, or not well, are asked again until the quorum is
        there; training again from the same request gives the same reply, so who is
        dropped by the judge is not.

        Parameters
        ----------
        messages : iterable of Message
            The requests.
        check : callable
            See `Check`.
        what : str
            The round, for people.
        judge : callable
            See `Judge`.

        Raises
        ------
        UserError
            If the quorum is not there after `federation.round-retries` repetitions.
        """
        federation = self.federation
        waiting = {message.metadata.dst_node_id: message for message in messages}
        asked, needed = len(waiting), quorum(federation, len(waiting))
        received: dict[int, Message] = {}
        problems: dict[int, str] = {}
        for repetition in range(federation.round_retries + 1):
            replies, problems, _ = self.send(list(waiting.values()), check)
            received |= replies
            odd = {n: self._drop(n, why) for n, why in judge(received).items()}
            problems |= odd
            for line in self._said(problems):
                log.warning("left out of this round: %s", line)
            good = {n: received[n] for n in self._ordered(received) if n not in odd}
            if len(good) >= needed:
                return list(good.values())
            waiting = {n: again(m) for n, m in waiting.items() if n not in received}
            if not waiting:
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
            _no_quorum(federation, what, len(good), asked, self._said(problems))
        )

    def send(
        self,
        messages: Sequence[Message],
        check: Check,
        *,
        patient: bool = False,
        timeout: float | None = None,
    ) -> Answers:
        """Send messages and sort the replies out.

        All is in the order of the clients, which makes sums, and so the run,
        independent of who answered first. `patient`: see `exchange`. Without a timeout
        it is that of a round.
        """
        timeout = timeout or self.federation.round_timeout
        started = monotonic()
        clients = self._clients()
        for message in messages:
            client = clients.get(message.metadata.dst_node_id, -1)
            if head := self.ledgers.get(client):
                name_ledger(message, head)
        replies, lost = exchange(
            self.grid, messages, timeout, self._say_who_is_awaited, patient=patient
        )
        answers = self._sort_out(messages, replies, lost, check, timeout)
        self.notify(
            EventKind.EXCHANGED,
            message=messages[0].metadata.message_type,
            asked=self._names(message.metadata.dst_node_id for message in messages),
            answered=self._names(answers.good),
            seconds=monotonic() - started,
            bytes_sent=sum(_size(message.content) for message in messages),
            bytes_received=sum(_size(reply.content) for reply in answers.good.values()),
        )
        return answers

    def _sort_out(
        self,
        messages: Sequence[Message],
        replies: Mapping[int, Message],
        lost: Mapping[int, str],
        check: Check,
        timeout: float,
    ) -> Answers:
        clients, answers = self._clients(), Answers({}, {}, set())
        for node in self._ordered(m.metadata.dst_node_id for m in messages):
            if (reply := replies.get(node)) is not None:
                problem = problem_of(reply, check, clients.get(node, -1))
            elif node in lost:
                problem = lost[node]
            else:
                problem = f"no answer within {timeout:g} s"
                answers.silent.add(node)
            if problem is None and reply is not None:
                answers.good[node] = reply
            elif problem is not None:
                answers.problems[node] = self._drop(node, problem)
        return answers

    def _read(
        self, good: Mapping[int, Message], reply_type: type[ReplyT]
    ) -> dict[int, ReplyT]:
        """Return what replies say, by client, ascending."""
        return {
            client: reply_type.from_content(good[node].content)
            for client, node in self.nodes.items()
            if node in good
        }

    def _drop(self, node: int, problem: str) -> str:
        """Tell that a reply is dropped, and return why."""
        client = self._clients().get(node)
        self.notify(EventKind.REPLY_DROPPED, client=client, reason=problem)
        return problem

    def _said(self, problems: Mapping[int, str]) -> list[str]:
        """Return each problem once, behind all the nodes that have it."""
        together: dict[str, list[int]] = {}
        for node in self._ordered(problems):
            together.setdefault(problems[node], []).append(node)
        return [f"{self._list(nodes)}: {why}" for why, nodes in together.items()]

    def _ask_patiently(
        self, request: Request, nodes: Iterable[int], check: Check, what: str
    ) -> tuple[dict[int, Message], dict[int, str]]:
        """Ask nodes the same, and again those who answer badly.

        Who said nothing for `federation.round-timeout` seconds is not asked again.
        """
        content, kind = request.to_content(), request.message_type
        good: dict[int, Message] = {}
        problems: dict[int, str] = {}
        waiting = list(nodes)
        for repetition in range(self.federation.round_retries + 1):
            if repetition:
                self.notify(EventKind.ASKED_AGAIN, clients=self._names(waiting))
            answers = self.send(
                [Message(content, dst_node_id=n, message_type=kind) for n in waiting],
                check,
                patient=True,
            )
            for line in self._said(answers.problems):
                log.warning("%s: %s", what, line)
            good |= answers.good
            problems |= answers.problems
            waiting = [n for n in answers.problems if n not in answers.silent]
            if not waiting:
                break
        return good, {n: why for n, why in problems.items() if n not in good}

    def _say_who_is_awaited(self, nodes: Collection[int], seconds: float) -> None:
        self.notify(EventKind.WAITING, clients=self._names(nodes), seconds=seconds)
        if seconds >= LOGGED_WAIT:
            log.warning("waiting for %s for %s", self._list(nodes), duration(seconds))

    def _clients(self) -> dict[int, int]:
        """Return the client that each node is, as far as known."""
        return {node: client for client, node in self.nodes.items()}

    def _list(self, nodes: Collection[int]) -> str:
        """Return what some nodes are called together, such as `clients 0-3, 7`."""
        clients, known = self._names(nodes), self._clients()
        strangers = [node for node in nodes if node not in known]
        words = []
        if clients:
            words.append(f"client{'s' * (len(clients) > 1)} {ranges(clients)}")
        if strangers:
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            words.append(f"SuperNode {strangers[0]}{more}")
        return ", ".join(words)

    def _ordered(self, nodes: Iterable[int]) -> list[int]:
        """Return nodes in the order of the clients."""
        clients = self._clients()
        return sorted(nodes, key=lambda node: clients.get(node, node))

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


def _no_quorum(
    federation: FederationConfig,
    what: str,
    answered: int,
    asked: int,
    problems: Sequence[str],
) -> str:
    reasons = problems or ["the other clients have no label"]
    return (
        f"{what}: {answered} of {asked} clients answered well, but "
        f"`federation.quorum` = {federation.quorum:g} with {federation.strategy} "
        f"needs {quorum(federation, asked)}, also after {federation.round_retries} "
        f"repetitions (`federation.round-retries`); {'; '.join(reasons)}."
    )


def ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers in words.

    Examples
    --------
    >>> ranges([0, 1, 2, 3, 7, 9, 10])
    '0-3, 7, 9-10'
    """
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else f"{run[0]}" for run in ends)


def _size(content: RecordDict) -> int:
    """Return the bytes of the arrays; all else together is less than a kilobyte."""
    return sum(record.count_bytes() for record in content.array_records.values())
