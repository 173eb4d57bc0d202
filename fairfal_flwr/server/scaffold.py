"""SCAFFOLD on Flower's hooks: FedAvg with control variates.

SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
    Sai Praneeth Karimireddy, Satyen Kale, Mehryar Mohri, Sashank J. Reddi,
    Sebastian U. Stich, Ananda Theertha Suresh. ICML 2020, arXiv 1910.06378.

The client's half is `fairfal_flwr.client.scaffold`.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fairfal_flwr.messages import VARIATE

__all__ = ["Scaffold"]

Arrays = dict[str, NDArray[Any]]


class Scaffold(FedAvg):
    r"""FedAvg whose clients correct their gradients by c - c_k (Algorithm 1).

    With S the clients whose replies count, N all clients and n_k labeled counts,

    .. math::
        x &\leftarrow x + \eta_g \sum_{k \in S} n_k (y_k - x) / \sum_{k \in S} n_k \\
        c &\leftarrow c + \tfrac{1}{N} \sum_{k \in S} (c_k^+ - c_k)

    so c stays the mean of the c_k over all N clients, also where only some take part
    or answer. That holds because a reply that does not come back, or is dropped,
    changes nothing: each request names the last update of that client that was used,
    and the client goes on from there.

    Parameters
    ----------
    num_clients : int
        N.
    client_of : callable
        From Flower's node id to the client's index.
    buffers : Collection of str
        Entries that have no gradient, hence no variate: BatchNorm's.
    server_learning_rate : float, default 1.0
        η_g, the step of the parameters; buffers are averaged.
    **keywords
        Of `FedAvg`.
    """

    def __init__(
        self,
        *,
        num_clients: int,
        client_of: Callable[[int], int],
        buffers: Collection[str] = (),
        server_learning_rate: float = 1.0,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        self.num_clients = num_clients
        self.client_of = client_of
        self.buffers = frozenset(buffers)
        self.server_learning_rate = server_learning_rate
        self.variate: Arrays = {}
        self.current: Arrays = {}
        self.moment: list[int] = []  # cycle and round that are being trained
        self.accepted: dict[str, list[int]] = {}  # client -> moment of the last used

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send each client the weights, c, and which of its updates was used last."""
        self.current = _trained(arrays, self.buffers)
        self.moment = [int(cast(int, config[key])) for key in ("cycle", "round")]
        if not self.variate:
            self.variate = {name: np.zeros_like(a) for name, a in self.current.items()}
        variate = _record(self.variate)
        common = super().configure_train(server_round, arrays, config, grid)
        return [
            self._message(message.metadata.dst_node_id, arrays, config, variate)
            for message in common
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move the weights and c; remember whose updates were used."""
        replies = list(replies)
        for reply in replies:
            change = cast(ArrayRecord, reply.content.pop(VARIATE))
            for name in self.variate:
                self.variate[name] += change[name].numpy() / self.num_clients
            client = self.client_of(reply.metadata.src_node_id)
            self.accepted[str(client)] = self.moment
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None and self.server_learning_rate != 1:
            for name, old in self.current.items():
                step = self.server_learning_rate * (arrays[name].numpy() - old)
                arrays[name] = Array(np.asarray(old + step))
        return arrays, metrics

    def _message(
        self, node: int, arrays: ArrayRecord, config: ConfigRecord, variate: ArrayRecord
    ) -> Message:
        accepted = self.accepted.get(str(self.client_of(node)))
        own = ConfigRecord({**config, **({"accepted": accepted} if accepted else {})})
        content = RecordDict(
            {self.arrayrecord_key: arrays, VARIATE: variate, self.configrecord_key: own}
        )
        return Message(content, dst_node_id=node, message_type=MessageType.TRAIN)


def _trained(arrays: ArrayRecord, buffers: Collection[str]) -> Arrays:
    return {
        name: array.numpy() for name, array in arrays.items() if name not in buffers
    }


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})
