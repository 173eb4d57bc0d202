"""A Grid that runs the ClientApp in this process: real messages, no servers."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client_app import app as client_app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server import recorder
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.privacy import make_private
from fairfal_flwr.server.strategies import make_strategy

FIRST_NODE_ID = 1000

SMALL = {
    "num-clients": 3,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 2,
    "campaign.evaluate-every": 2,
    "train.epochs": 1,
    "query.strategy": "random",
}


class InProcessGrid(Grid):
    """Delivers messages to a ClientApp at once, in a random order, and keeps them."""

    def __init__(
        self,
        run_config: dict[str, Any],
        num_nodes: int,
        app: Callable[[Message, Context], Message] = client_app,
    ) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self.app = app
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self._waiting: dict[str, Message] = {}
        self._shuffle = random.Random(num_nodes)
        self.contexts = {
            FIRST_NODE_ID + index: Context(
                run_id=1,
                node_id=FIRST_NODE_ID + index,
                node_config={"partition-id": index, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for index in range(num_nodes)
        }

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return self._shuffle.sample(list(self.contexts), len(self.contexts))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        answered = [self._deliver(message) for message in messages]
        sent = [reply.metadata.reply_to_message_id for reply in answered]
        self._shuffle.shuffle(answered)
        self.replies += answered
        self._waiting |= {r.metadata.reply_to_message_id: r for r in answered}
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        return [
            self._waiting.pop(sent) for sent in list(self._waiting) if sent in wanted
        ]

    def send_and_receive(self, *args: Any, **kwargs: Any) -> list[Message]:
        raise NotImplementedError

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = str(uuid4())
        self.requests.append(message)
        try:
            return self.app(message, self.contexts[node])
        except Exception as error:  # as Flower does: a crash is an error reply
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, repr(error))
            return Message(reason, reply_to=message)


def small(tmp_path: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Return the keys of a small campaign with folders of its own."""
    folder = str(tmp_path / name)
    return {**SMALL, "output-dir": folder, "state-dir": folder, **changes}


def run_campaign(
    overrides: dict[str, Any], *, num_nodes: int | None = None, draws: bool = False
) -> tuple[Campaign, InProcessGrid]:
    """Run a whole campaign in this process, with participants of its own.

    The learning curve takes a third of the time of a small one: it is an empty file
    unless `draws` is set.
    """
    find_participant.cache_clear()
    config = RunConfig.from_flat(overrides)
    grid = InProcessGrid(
        overrides, config.num_clients if num_nodes is None else num_nodes
    )
    campaign = Campaign(config, grid)
    draw = recorder.draw_learning_curve if draws else _touch
    with mock.patch.object(recorder, "draw_learning_curve", draw):
        campaign.run()
    return campaign, grid


def strategy_of(config: RunConfig) -> Strategy:
    """Return the strategy of a run in its privacy wrapper; node k is client k."""
    return make_private(make_strategy(config, frozenset(), int), config)


def facts_of(campaign: Campaign, kind: EventKind) -> list[Any]:
    """Return what the events of a kind say, in their order."""
    events = read_run(campaign.recorder.folder).events
    return [event.facts for event in events if event.kind == kind]


def same_weights(first: Campaign, second: Campaign) -> bool:
    """Tell whether two campaigns ended with the same weights, bit by bit."""
    ours, theirs = first.state.weights, second.state.weights
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def _touch(_groups: object, path: Path) -> None:
    path.touch()
