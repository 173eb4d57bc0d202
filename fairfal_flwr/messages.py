"""What travels between server and clients: one small dataclass per message.

Nothing else crosses. Requests carry the campaign, the cycle and sometimes weights;
replies carry weights, counts, losses, timings and the imbalance γ_k. No reply has a
field for an image, a feature, a label or a sample's identity.
"""

import math
import re
from dataclasses import dataclass, field, fields
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
from torch import Tensor, nn

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
    "is_head",
    "load_weights",
    "pack_weights",
    "refuse",
    "unpack_weights",
]

Weights = dict[str, Tensor]

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
VARIATE = "variate"

# The fields that hold arrays, and the record that each travels in.
ARRAY_RECORDS = {"weights": ARRAYS, "variate": VARIATE}


def pack_weights(weights: Weights) -> ArrayRecord:
    """Return the floating-point entries of a state dict as Flower's record.

    Integers do not travel: in our networks they are BatchNorm's counts of batches,
    which neither training nor prediction reads, and which would outweigh everything
    else in the norms and distances that aggregation strategies compute.
    """
    floating = {name: w for name, w in weights.items() if w.is_floating_point()}
    return ArrayRecord(torch_state_dict=floating)


def unpack_weights(record: ArrayRecord) -> Weights:
    """Return Flower's record as a state dict, on the CPU."""
    return dict(record.to_torch_state_dict())


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a network; integers that did not travel stay as they are.

    Raises
    ------
    RuntimeError
        If a floating-point entry is missing, unknown or of another shape.
    """
    state = model.state_dict()
    kept = {name: w for name, w in state.items() if not w.is_floating_point()}
    model.load_state_dict(kept | weights)


@dataclass(frozen=True)
class _Payload:
    """Fields in `ARRAY_RECORDS` become array records, all others scalars."""

    record_name: ClassVar[str]
    record_type: ClassVar[type[ConfigRecord] | type[MetricRecord]]

    def to_content(self) -> RecordDict:
        """Return the records to send; a field that is None is left out."""
        scalars = self.record_type(self._scalars())
        content = RecordDict({self.record_name: scalars})
        for name, record in ARRAY_RECORDS.items():
            weights = getattr(self, name, None)
            if weights is not None:
                content[record] = pack_weights(weights)
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
            each.name: record[_key(each.name)]
            for each in fields(cls)
            if _key(each.name) in record
        }
        for name, place in ARRAY_RECORDS.items():
            if isinstance(arrays := content.get(place), ArrayRecord):
                values[name] = unpack_weights(arrays)
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"malformed {cls.__name__}: {error}") from None

    @classmethod
    def scalar_keys(cls) -> frozenset[str]:
        """Return the keys that a full message of this kind has beside its arrays."""
        names = {each.name for each in fields(cls)}
        return frozenset(_key(name) for name in names - ARRAY_RECORDS.keys())

    def _scalars(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            _key(name): value
            for name, value in values.items()
            if name not in ARRAY_RECORDS and value is not None
        }


def _key(name: str) -> str:
    return name.replace("_", "-")


# A campaign's name is the name of a folder, on every client.
CAMPAIGN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Request(_Payload):
    """From the server; names the campaign that the client's ledger belongs to.

    `ledger` is the head of that ledger as the server last heard of it, so that a client
    can tell whether its ledger went back in time; None where it never did.

    Raises
    ------
    ValueError
        If a field is not what it should be; the sentence holds the server's words only.
    """

    record_name = CONFIG
    record_type = ConfigRecord
    message_type: ClassVar[str]

    campaign: str
    ledger: list[int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = self.campaign
        if not (isinstance(name, str) and CAMPAIGN_NAME.fullmatch(name)):
            raise ValueError(
                f"the campaign is {name!r:.100}; allowed: at most 200 letters, digits "
                "and `._-`, the first of them no dot"
            )
        if self.ledger is not None and not is_head(self.ledger):
            raise ValueError(f"the ledger is {self.ledger!r:.100}; allowed: two counts")
        for each in fields(self):
            _check_number(each.name, each.type, getattr(self, each.name))


# The smallest that a number of a request may be.
LEAST = {
    "cycle": 1,
    "round": 1,
    "lr": 0,
    "proximal_mu": 0,
    "global_imbalance": 0,
    "awaited": 0,
    "open": 0,
    "seconds_left": 0,
}


@dataclass(frozen=True)
class Reply(_Payload):
    """From a client."""

    record_name = METRICS
    record_type = MetricRecord


@dataclass(frozen=True)
class StatusRequest(Request):
    """Ask which client this is and what it holds.

    While the campaign waits for answers it says for which cycle's, for how many clients
    that still have open questions (`awaited`), for how many questions of all clients
    (`open`), and for how many seconds more, if there is a deadline.
    """

    message_type = "query.status"

    cycle: int | None = None
    awaited: int | None = None
    open: int | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class StatusReply(Reply):
    """The client's index, 1 if it uses a GPU, its counts, and the head of its ledger.

    `num_open` counts the questions without an answer, `num_set_aside` the samples that
    nobody could tell.
    """

    client: int
    on_gpu: int
    num_samples: int
    num_labeled: int
    num_open: int
    num_set_aside: int
    ledger: list[int]


@dataclass(frozen=True)
class ModelRequest(Request):
    """A request that a Flower strategy sends: weights and scalars."""

    weights: Weights

    def records(self) -> tuple[ArrayRecord, ConfigRecord]:
        """Return weights and scalars apart, as Flower's strategies take them."""
        return pack_weights(self.weights), ConfigRecord(self._scalars())


@dataclass(frozen=True)
class TrainRequest(ModelRequest):
    """Train these weights on your labels.

    `saved` is cycle and round of the server's last checkpoint. `proximal_mu` comes
    from FedProx; `variate`, the server's control variate, and `accepted`, cycle and
    round of the last update of this client that the server used, from SCAFFOLD.
    """

    message_type = "train"

    cycle: int
    round: int
    lr: float
    saved: list[int] | None = None
    proximal_mu: float = 0.0
    variate: Weights | None = None
    accepted: list[int] | None = None

    @property
    def moment(self) -> tuple[int, int]:
        """Cycle and round of this request."""
        return self.cycle, self.round

    @property
    def checkpoint(self) -> tuple[int, int]:
        """Cycle and round that the server may come back to."""
        cycle, number = self.saved or (0, 0)
        return cycle, number

    @property
    def last_accepted(self) -> tuple[int, int] | None:
        """Cycle and round of this client's last update that was used."""
        if self.accepted is None:
            return None
        cycle, number = self.accepted
        return cycle, number


@dataclass(frozen=True)
class TrainReply(Reply):
    """The weights after local training; `loss` is the last epoch's mean.

    `variate` is the change of the client's control variate, for SCAFFOLD alone.
    """

    num_examples: int
    loss: float
    seconds: float
    weights: Weights
    variate: Weights | None = None


@dataclass(frozen=True)
class EvaluateRequest(ModelRequest):
    """Test these weights on your own test shard."""

    message_type = "evaluate"


@dataclass(frozen=True)
class EvaluateReply(Reply):
    """How the global model does on the client's test shard.

    `class_counts` has the test images of each class, `class_hits` those of them that
    are classified right. They travel only where `federation.fraction-evaluate` asks
    for evaluation on the clients.
    """

    num_examples: int
    loss: float
    accuracy: float
    class_counts: list[int]
    class_hits: list[int]


@dataclass(frozen=True)
class ImbalanceRequest(Request):
    """Ask how imbalanced the global model looks on the labels, before a cycle's query.

    The labels are those that the cycle before was trained with.
    """

    message_type = "query.imbalance"

    cycle: int
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

    def __post_init__(self) -> None:
        super().__post_init__()
        gamma = self.global_imbalance
        if gamma is not None and not (isinstance(gamma, float) and gamma <= 1):
            raise ValueError(f"the global-imbalance is {gamma!r}; allowed: 0 to 1")


@dataclass(frozen=True)
class SelectReply(Reply):
    """Counts before and after, where the time went, and the head of the ledger.

    `budget` is how many samples the client was to ask for, `num_selected` how many it
    asked for, `asked_seconds` ago; `num_open` and `num_set_aside` as in `StatusReply`.
    `global_query` is 1 where the global model judged uncertainty, 0 where the local
    one did, -1 where the strategy makes no such choice.
    """

    budget: int
    num_selected: int
    num_labeled: int
    num_unlabeled: int
    num_open: int
    num_set_aside: int
    asked_seconds: float
    global_query: int
    local_training_seconds: float
    outputs_seconds: float
    selection_seconds: float
    ledger: list[int]


def is_head(value: object) -> bool:
    """Tell whether a value may be a ledger's head: entries, and a digest's start."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(number) is int and 0 <= number < 2**63 for number in value)
    )


def answer(message: Message, reply: Reply) -> Message:
    """Reply to a message."""
    return Message(reply.to_content(), reply_to=message)


def refuse(message: Message, reason: str) -> Message:
    """Reply to a message with what went wrong, in one line."""
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return Message(error, reply_to=message)


def _check_number(name: str, kind: object, value: object) -> None:
    """Raise a ValueError for a number that is none, too small or not finite."""
    if kind not in (int, float, int | None, float | None):
        return
    if value is None and kind not in (int, float):
        return
    least = LEAST[name]
    kinds = (int,) if kind in (int, int | None) else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or value < least:  # type: ignore[arg-type, operator]
        raise ValueError(f"the {_key(name)} is {value!r:.100}; allowed: >= {least}")
