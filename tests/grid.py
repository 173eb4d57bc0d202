"""A Grid that runs the ClientApp in this process: real messages, no servers."""

import random
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client_app import app as client_app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.server.campaign import Campaign

FIRST_NODE_ID = 1000


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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        replies = [self._deliver(message) for message in messages]
        self._shuffle.shuffle(replies)
        self.replies += replies
        return replies

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = str(uuid4())
        self.requests.append(message)
        try:
            return self.app(message, self.contexts[node])
        except Exception as error:  # as Flower does: a crash is an error reply
            reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, repr(error))
            return Message(reason, reply_to=message)


def run_campaign(
    overrides: dict[str, Any], *, num_nodes: int | None = None
) -> tuple[Campaign, InProcessGrid]:
    """Run a whole campaign in this process, with participants of its own."""
    find_participant.cache_clear()
    config = RunConfig.from_flat(overrides)
    grid = InProcessGrid(
        overrides, config.num_clients if num_nodes is None else num_nodes
    )
    campaign = Campaign(config, grid)
    campaign.run()
    return campaign, grid
