"""How clients are asked, over a grid whose every answer is written down here."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from fairfal_flwr.config import FederationConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import StatusRequest
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.server import clients as clients_module
from fairfal_flwr.server import exchange
from fairfal_flwr.server.clients import Clients

SERVER = 1
NODES = (100, 200, 300)


class ScriptedGrid:
    """Gives what a script says, one entry for each time that it is looked at.

    An entry holds the nodes that have answered since the last; -node is Flower's own
    reply for a node that is gone, which says that it is from the server; (node, other)
    is an answer of the first in place of the second.
    """

    def __init__(self, *script, refused=(), restart=None, offline=()):
        self.offline = offline  # the looks at which node 200 is away
        self.restart = restart  # of node 200, at this look
        self.script = list(script)
        self.refused = refused
        self.looks = 0
        self.pushed = []
        self.sent = {}
        self.born = dict.fromkeys(NODES, "yesterday")

    def get_node_ids(self):
        return list(NODES)

    def get_nodes(self):
        online = [n for n in NODES if n != 200 or self.looks not in self.offline]
        return [NodeInfo(node_id=n, last_activated_at=self.born[n]) for n in online]

    def push_messages(self, messages):
        sent = {m.metadata.dst_node_id: m for m in messages}
        self.pushed += sent
        self.sent |= sent
        for node, message in sent.items():
            message.metadata.__dict__["_message_id"] = f"to-{node}"
        if set(self.refused) == set(sent):
            return []  # as Flower does where they are too large
        return ["" if n in self.refused else f"to-{n}" for n in sent]

    def pull_messages(self, message_ids):
        self.looks += 1
        if self.looks == self.restart:
            self.born[200] = "today"
        entry = self.script.pop(0) if self.script else ()
        assert "" not in message_ids
        return [self._reply(node) for node in entry]

    def _reply(self, node):
        if isinstance(node, tuple):
            reply = self._reply(node[0])
            reply.metadata.__dict__["_reply_to_message_id"] = f"to-{node[1]}"
            return reply
        request = self.sent[abs(node)]
        if node > 0:
            return Message(RecordDict(), reply_to=request)
        error = Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable")
        reply = Message(error, reply_to=request)
        reply.metadata.__dict__["_src_node_id"] = SERVER
        return reply


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Let time pass by sleeping alone; be somebody to Flower's messages."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = SERVER
    time = [0.0]
    for module in (exchange, clients_module):
        monkeypatch.setattr(module, "monotonic", lambda: time[0])
        monkeypatch.setattr(
            module, "sleep", lambda seconds: time.__setitem__(0, time[0] + seconds)
        )
    return time


def anything(_content, _client):
    """Find no fault with a reply."""


def clients_of(grid, notify=lambda *_, **__: None, **federation):
    clients = Clients(grid, FederationConfig(**federation), notify)
    clients.nodes = dict(enumerate(NODES))
    return clients


def send(grid, nodes=NODES, notify=lambda *_, **__: None, **federation):
    messages = [Message(RecordDict(), node, "train") for node in nodes]
    answers = clients_of(grid, notify, **federation).send(messages, anything)
    return list(answers.good), list(answers.problems.values())


def ask_all(grid, **federation):
    """Ask all the same; return who answered well, and what is wrong with the others."""
    request = StatusRequest(campaign="c")
    clients = clients_of(grid, **federation)
    good, problems = clients._ask_patiently(request, NODES, anything, "Status")
    return list(good), list(problems.values())


def test_replies_come_in_the_order_of_the_clients_whoever_was_first():
    assert send(ScriptedGrid((), (300,), (), (200, 100))) == ([100, 200, 300], [])


def test_a_node_that_is_gone_is_named_at_once(clock):
    good, problems = send(ScriptedGrid((100, -200), (300,)), round_timeout=60.0)
    assert good == [100, 300]
    assert problems == ["Node Unavailable"]
    assert clock[0] < 1


def test_who_does_not_answer_is_named_after_the_timeout(clock):
    grid = ScriptedGrid((100,), (300,))
    good, problems = send(grid, round_timeout=60.0)
    assert good == [100, 300]
    assert problems == ["no answer within 60 s"]
    assert 60 <= clock[0] <= 61


def test_a_node_that_restarted_is_asked_again_and_once(clock):
    script = [(100, 300), *[()] * 200, (200,)]
    grid = ScriptedGrid(*script, restart=30)
    assert send(grid, round_timeout=3600.0) == ([100, 200, 300], [])
    assert grid.pushed == [100, 200, 300, 200]
    assert clock[0] > 20


def test_a_question_to_all_waits_for_a_node_that_is_gone(caplog):
    script = [(100, 300), (), (-200,), *[()] * 8, (200,)]
    grid = ScriptedGrid(*script, offline=range(2, 9))
    good, problems = ask_all(grid)
    assert (sorted(good), problems) == ([100, 200, 300], [])
    assert grid.pushed == [100, 200, 300, 200]
    assert "SuperNode 200 is gone; waiting" in caplog.text


def test_a_question_to_all_ends_if_the_node_stays_away():
    grid = ScriptedGrid((100, 300, -200), offline=range(10_000))
    good, problems = ask_all(grid, round_timeout=60.0)
    assert (good, problems) == ([100, 300], ["no answer within 60 s"])
    assert grid.pushed == [100, 200, 300]


def test_it_looks_often_at_first_and_once_a_second_later(clock):
    grid = ScriptedGrid(*[()] * 1000)
    send(grid, round_timeout=1.0)
    assert 25 <= grid.looks <= 50
    long = ScriptedGrid(*[()] * 10_000)
    send(long, round_timeout=1000.0)
    assert long.looks < 1200


def test_nobody_answers_for_another_or_twice(caplog):
    grid = ScriptedGrid((100, (100, 200)), (100, (300, 999)), (200, 300))
    assert send(grid) == ([100, 200, 300], [])
    assert caplog.text.count("not from the client it is for") == 3


def test_who_only_answers_for_another_is_asked_once_more_and_not_waited_for(clock):
    """The SuperLink hands out one reply for a message, so no other can come."""
    grid = ScriptedGrid((100, 300, (100, 200)), ((300, 200),))
    good, problems = send(grid, round_timeout=3600.0)
    assert good == [100, 300]
    assert problems == ["its reply says that it is from another"]
    assert grid.pushed == [100, 200, 300, 200]
    assert clock[0] < 1


class PromptGrid(ScriptedGrid):
    """Answers for every node at once, but for one; or fails to read what that sends."""

    def __init__(self, node, error=None):
        super().__init__()
        self.node, self.error = node, error

    def pull_messages(self, message_ids):
        nodes = [int(sent.removeprefix("to-")) for sent in message_ids]
        if self.node in nodes and self.error:
            raise self.error
        return [self._reply(node) for node in nodes if node != self.node]


@pytest.mark.parametrize(
    "error", [ValueError("wire type"), TypeError(), RecursionError()], ids=repr
)
def test_a_reply_that_flower_cannot_read_costs_only_itself(clock, error):
    good, problems = send(PromptGrid(200, error))
    assert good == [100, 300]
    assert problems == ["its reply cannot be read"]
    assert clock[0] < 1


class Pretender(PromptGrid):
    """Has node 200 itself say that it is gone, which is for Flower to say."""

    def _reply(self, node):
        if node != 200:
            return super()._reply(node)
        error = Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable")
        return Message(error, reply_to=self.sent[node])


def test_a_node_that_says_itself_that_it_is_gone_is_not_waited_for(clock):
    good, problems = ask_all(Pretender(node=0))
    assert (good, problems) == ([100, 300], ["Node Unavailable"])
    assert clock[0] < 1


class TroubledGrid(ScriptedGrid):
    """Answers for every node once some errors are over."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)

    def pull_messages(self, message_ids):
        if self.errors:
            raise self.errors.pop(0)
        return [self._reply(int(sent.removeprefix("to-"))) for sent in message_ids]


@pytest.mark.parametrize("before", [[], [ValueError("wire type")]], ids=repr)
def test_a_connection_that_fails_is_nobodys_reply(before):
    """Neither where all are read together, nor where each is read by itself."""
    lost = type("ConnectError", (Exception,), {"__module__": "httpx"})
    with pytest.raises(lost):
        send(TroubledGrid(*before, lost()))


def test_who_answers_badly_is_asked_again_and_who_is_silent_is_not(clock):
    """A question to all: client 0 is never right, client 2 the second time."""
    times = dict.fromkeys(range(3), 0)

    def check(_content, client):
        times[client] += 1
        if client == 0 or (client == 2 and times[client] == 1):
            raise ValueError("not now")

    grid = PromptGrid(200)
    clients = clients_of(grid, round_timeout=60.0, round_retries=2)
    request = StatusRequest(campaign="c")
    good, problems = clients._ask_patiently(request, NODES, check, "Status")
    assert list(good) == [300]
    assert problems == {
        100: "not now",
        200: "no answer within 60 s",
    }
    assert grid.pushed == [100, 200, 300, 100, 300, 100]
    assert times == {0: 3, 1: 0, 2: 2}


def test_a_long_wait_is_said_on_the_screen_with_who_and_for_how_long(caplog):
    send(ScriptedGrid((100,)), round_timeout=500.0)
    lines = [r.message for r in caplog.records if r.message.startswith("waiting for")]
    assert lines == [
        "waiting for clients 1-2 for 1 min 1 s",
        "waiting for clients 1-2 for 2 min 1 s",
        "waiting for clients 1-2 for 4 min 1 s",
        "waiting for clients 1-2 for 8 min 1 s",
    ]


def test_a_node_that_the_superlink_no_longer_knows_is_named():
    good, problems = send(ScriptedGrid((100, 300), refused=(200,)))
    assert good == [100, 300]
    assert problems == ["the SuperLink does not take its message"]


def test_messages_too_large_for_the_superlink_are_one_line():
    with pytest.raises(UserError, match="as large as the model; its log says why"):
        send(ScriptedGrid(refused=NODES))


def test_it_tells_who_is_awaited_and_whose_reply_was_dropped(clock):
    told = []
    send(
        ScriptedGrid((100, -300)),
        notify=lambda kind, **facts: told.append((kind, facts)),
        round_timeout=70.0,
    )
    waits = [facts for kind, facts in told if kind == EventKind.WAITING]
    assert [facts["clients"] for facts in waits] == [[1], [1], [1]]
    assert [facts["seconds"] // 15 for facts in waits] == [1, 2, 4]
    dropped = [
        (f["client"], f["reason"])
        for kind, f in told
        if kind == EventKind.REPLY_DROPPED
    ]
    assert dropped == [(1, "no answer within 70 s"), (2, "Node Unavailable")]
    (exchanged,) = (facts for kind, facts in told if kind == EventKind.EXCHANGED)
    assert (exchanged["asked"], exchanged["answered"]) == ([0, 1, 2], [0])
    assert 70 <= exchanged["seconds"] < 75


def test_it_counts_the_bytes_of_the_arrays():
    told = {}
    content = RecordDict({"a": ArrayRecord([np.zeros(100, np.float32)])})
    messages = [Message(content, node, "train") for node in NODES]
    clients = clients_of(ScriptedGrid(NODES), lambda kind, **facts: told.update(facts))
    clients.send(messages, anything)
    assert 1200 <= told["bytes_sent"] < 2000
    assert told["bytes_received"] == 0  # the script's replies are empty


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("its metrics hold more: a\nERROR: fake"), "more: a ERROR: fake"),
        (ValueError("x" * 10_000), "x" * 300 + "…"),
        (OverflowError("int too large"), "its reply cannot be read (OverflowError)"),
    ],
    ids=["two lines", "long", "another error"],
)
def test_whatever_a_reply_does_it_is_dropped_with_one_bearable_line(error, line):
    def check(_content, client):
        if client == 1:
            raise error

    messages = [Message(RecordDict(), node, "train") for node in NODES]
    answers = clients_of(ScriptedGrid(NODES)).send(messages, check)
    (problem,) = answers.problems.values()
    assert list(answers.good) == [100, 300]
    assert problem.endswith(line)
    assert "\n" not in problem


class LateGrid(ScriptedGrid):
    """Knows its last node from some time on."""

    def __init__(self, clock, since):
        super().__init__()
        self.clock, self.since = clock, since

    def get_node_ids(self):
        return list(NODES if self.clock[0] >= self.since else NODES[:2])


def test_a_node_that_connects_late_is_waited_for(clock):
    clients = clients_of(LateGrid(clock, since=4.0), connect_timeout=5.0)
    assert clients._connected_nodes(3) == list(NODES)
    assert clock[0] == pytest.approx(4.0)


def test_a_node_that_never_connects_is_not_waited_for_longer_than_asked(clock):
    clients = clients_of(LateGrid(clock, since=60.0), connect_timeout=5.0)
    with pytest.raises(UserError, match="3 but 2 SuperNodes are connected"):
        clients._connected_nodes(3)
    assert clock[0] == pytest.approx(5.0, abs=0.2)
