"""What travels between server and clients: one small dataclass per message.

Nothing else crosses. Requests carry the campaign, the cycle and sometimes weights;
replies carry weights, counts, losses, timings and the imbalance γ_k. No reply has a
field for an image, a feature, a label or a sample's identity.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import ErrorCode
from torch import Tensor

from fairfal_flwr.errors import UserError

__all__ = [
    "EvaluateReply",
    "EvaluateRequest",
    "ImbalanceReply",
    "ImbalanceRequest",
    "Reply",
    "Request",
    "SelectReply",
    "SelectRequest",
    "StatusReply",
    "StatusRequest",
    "TrainReply",
    "TrainRequest",
    "Weights",
    "answer",
    "pack_weights",
    "unpack_weights",
]

Weights = dict[str, Tensor]

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"


def pack_weights(weights: Weights) -> ArrayRecord:
    """Return a state dict as Flower's record."""
    return ArrayRecord(torch_state_dict=weights)


def unpack_weights(record: ArrayRecord) -> Weights:
    """Return Flower's record as a state dict, on the CPU."""
    return dict(record.to_torch_state_dict())


@dataclass(frozen=True)
class _Payload:
    """Fields named `weights` become an array record, all others scalars."""

    record_name: ClassVar[str]
    record_type: ClassVar[type[ConfigRecord] | type[MetricRecord]]

    def to_content(self) -> RecordDict:
        """Return the records to send; a field that is None is left out."""
        scalars = self.record_type(self._scalars())
        content = RecordDict({self.record_name: scalars})
        weights = getattr(self, "weights", None)
        if weights is not None:
            content[ARRAYS] = pack_weights(weights)
        return content

    @classmethod
    def from_content(cls, content: RecordDict) -> Self:
        """Read the records received.

        Raises
        ------
        ValueError
            If a record or a field is missing.
        """
        record = content.get(cls.record_name)
        if not isinstance(record, cls.record_type):
            raise ValueError(f"{cls.__name__} without its record `{cls.record_name}`")
        values: dict[str, Any] = {
            field.name: record[_key(field.name)]
            for field in fields(cls)
            if _key(field.name) in record
        }
        if isinstance(arrays := content.get(ARRAYS), ArrayRecord):
            values["weights"] = unpack_weights(arrays)
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"malformed {cls.__name__}: {error}") from None

    def _scalars(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            _key(name): value
            for name, value in values.items()
            if name != "weights" and value is not None
        }


def _key(name: str) -> str:
    return name.replace("_", "-")


@dataclass(frozen=True)
class Request(_Payload):
    """From the server; names the campaign that the client's ledger belongs to."""

    record_name = CONFIG
    record_type = ConfigRecord
    message_type: ClassVar[str]

    campaign: str


@dataclass(frozen=True)
class Reply(_Payload):
    """From a client."""

    record_name = METRICS
    record_type = MetricRecord


@dataclass(frozen=True)
class StatusRequest(Request):
    """Ask which client this is and how many images it holds."""

    message_type = "query.status"


@dataclass(frozen=True)
class StatusReply(Reply):
    """The client's index among the clients, its counts, and 1 if it uses a GPU."""

    client: int
    num_samples: int
    num_labeled: int
    on_gpu: int


@dataclass(frozen=True)
class ModelRequest(Request):
    """A request that a Flower strategy sends: weights and scalars."""

    weights: Weights

    def records(self) -> tuple[ArrayRecord, ConfigRecord]:
        """Return weights and scalars apart, as Flower's strategies take them."""
        return pack_weights(self.weights), ConfigRecord(self._scalars())


@dataclass(frozen=True)
class TrainRequest(ModelRequest):
    """Train these weights on your labels."""

    message_type = "train"

    cycle: int
    round: int
    lr: float


@dataclass(frozen=True)
class TrainReply(Reply):
    """The weights after local training; `loss` is the last epoch's mean."""

    num_examples: int
    loss: float
    seconds: float
    weights: Weights


@dataclass(frozen=True)
class EvaluateRequest(ModelRequest):
    """Test these weights on your own test shard."""

    message_type = "evaluate"


@dataclass(frozen=True)
class EvaluateReply(Reply):
    """Mean cross-entropy and accuracy on the client's test shard."""

    num_examples: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class ImbalanceRequest(Request):
    """Ask how imbalanced the global model looks on the client's labels."""

    message_type = "query.imbalance"

    weights: Weights


@dataclass(frozen=True)
class ImbalanceReply(Reply):
    """γ_k, in [0, 1]."""

    imbalance: float
    seconds: float


@dataclass(frozen=True)
class SelectRequest(Request):
    """Choose what to label in this cycle; asked again, the answer is the same."""

    message_type = "query.select"

    cycle: int
    strategy: str
    global_imbalance: float | None = None
    weights: Weights | None = None


@dataclass(frozen=True)
class SelectReply(Reply):
    """Counts before and after, and where the time went.

    `global_query` is 1 where the global model judged uncertainty, 0 where the local
    one did, -1 where the strategy makes no such choice.
    """

    budget: int
    num_selected: int
    num_labeled: int
    num_unlabeled: int
    global_query: int
    local_training_seconds: float
    outputs_seconds: float
    selection_seconds: float


def answer(message: Message, handle: Callable[[RecordDict], Reply]) -> Message:
    """Reply to a message; a user's mistake becomes an error reply of one line."""
    try:
        return Message(handle(message.content).to_content(), reply_to=message)
    except UserError as error:
        reason = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
        return Message(reason, reply_to=message)
