"""People in this process: they answer when the server asks how far they are."""

from collections.abc import Callable

from flwr.app import Context, Message
from torch import Tensor

from client_app import app
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.questions import Question
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import Shard, load_shard
from fairfal_flwr.paths import ledger_file

# Told the client, its ledger and its open questions, before each look.
Person = Callable[[int, Ledger, list[Question]], None]


def with_people(
    values: dict[str, object], person: Person
) -> Callable[[Message, Context], Message]:
    """Return a ClientApp whose people do something before each look at them."""

    def answered(message: Message, context: Context) -> Message:
        asks = message.metadata.message_type == "query.status"
        record = message.content["config"]
        if asks and "cycle" in record:
            client = int(context.node_config["partition-id"])
            path = ledger_file(
                str(values["state-dir"]), str(record["campaign"]), client
            )
            ledger = Ledger(path, None)
            waiting = [q for q in ledger.questions() if q.decision is None]
            person(client, ledger, waiting)
        return app(message, context)

    return answered


def truth(values: dict[str, object]) -> list[dict[int, int]]:
    """Return the label of each sample, client by client."""
    return [
        dict(zip(shard.sample_ids.tolist(), labels.tolist(), strict=True))
        for shard, labels in _shards(values)
    ]


def known_pixels(values: dict[str, object]) -> list[dict[bytes, int]]:
    """Return the label of each image by its first channel, client by client."""
    return [
        {
            image[0].numpy().tobytes(): label
            for image, label in zip(shard.images, labels.tolist(), strict=True)
        }
        for shard, labels in _shards(values)
    ]


def _shards(values: dict[str, object]) -> list[tuple[Shard, Tensor]]:
    config = RunConfig.from_flat(values)
    clients = range(config.num_clients)
    images, deal = config.image_spec(), config.partition_spec()
    return [load_shard(images, deal, client) for client in clients]
