"""What the files of a run hold, row by row; a file's keys are the fields in kebab-case.

`entry_of` and `row_of` are the only way between a row and a file, so no key is typed
anywhere else. A float that is not known is nan in a row, and blank, null or a dash in a
file; an optional field that is not known is None.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter

__all__ = [
    "FORMAT",
    "CycleRow",
    "Facts",
    "QueryRow",
    "RoundRow",
    "Row",
    "Summary",
    "entry_of",
    "filed_facts",
    "read_facts",
    "row_of",
]

FORMAT = 1  # of all files together; grows when a reader of the last one would fail


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _snake(key: str) -> str:
    return key.replace("-", "_")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _measure(value: Any) -> Any:
    return math.nan if value is None else value


def _joined(values: tuple[float, ...]) -> str:
    return " ".join("-" if math.isnan(value) else repr(value) for value in values)


def _split(text: str) -> list[str | None]:
    return [None if word == "-" else word for word in text.split()]


def filed_facts(value: Any) -> Any:
    """Return facts as files hold them: kebab-case, and null in place of nan."""
    if isinstance(value, Mapping):
        return {_kebab(key): filed_facts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [filed_facts(item) for item in value]
    is_unknown = isinstance(value, float) and not math.isfinite(value)
    return None if is_unknown else value


def read_facts(value: Any) -> Any:
    """Return facts as Python has them: snake_case."""
    if isinstance(value, Mapping):
        return {_snake(key): read_facts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read_facts(item) for item in value]
    return value


Measure = Annotated[float, BeforeValidator(_measure), PlainSerializer(_known)]
Measures = tuple[Measure, ...]
# In one cell of a CSV file: blanks between, a dash for what is not known.
JoinedMeasures = Annotated[Measures, BeforeValidator(_split), PlainSerializer(_joined)]
# What has no row type of its own; in Python its keys are in snake_case.
Facts = Annotated[
    dict[str, Any], BeforeValidator(read_facts), PlainSerializer(filed_facts)
]


class Row:
    """What a dataclass needs in order to be read from a file and written to one."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=_kebab, extra="forbid"
    )


@dataclass(frozen=True)
class RoundRow(Row):
    """One line of rounds.csv.

    Accuracies and recalls are fractions; None where they were not measured, and the
    recall of a class without test images is nan.
    """

    cycle: int
    round: int
    labels: int
    clients: int
    loss: Measure
    accuracy: Measure | None
    rare_recall: Measure | None
    client_accuracy: Measure | None
    client_recalls: JoinedMeasures | None
    seconds: float


@dataclass(frozen=True)
class QueryRow(Row):
    """One line of queries.csv: a client's choice in one cycle.

    `budget` is how many samples the client was to ask for; `num_open` counts the
    questions without an answer, `num_set_aside` the samples that nobody could tell.
    `global_query` is 1 where the global model judged uncertainty, 0 where the local one
    did, None where the strategy makes no such choice; `imbalance` is γ_k in the
    cycle that measured it.
    """

    cycle: int
    client: int
    strategy: str
    budget: int
    num_selected: int
    num_labeled: int
    num_unlabeled: int
    num_open: int
    num_set_aside: int
    global_query: int | None
    local_training_seconds: float
    outputs_seconds: float
    selection_seconds: float
    imbalance: Measure | None


@dataclass(frozen=True)
class CycleRow(Row):
    """One entry of summary.json's `cycles` and one row of the printed table.

    `global_queries` counts the clients whose global model judged uncertainty, None
    where the strategy makes no such choice.
    """

    cycle: int
    labels: int
    label_fraction: float
    accuracy: Measure
    loss: Measure
    rare_recall: Measure
    recalls: Measures
    mean_imbalance: Measure | None
    global_queries: int | None
    query_seconds: float
    train_seconds: float


@dataclass(frozen=True, kw_only=True)
class Summary(Row):
    """summary.json: the run, and its cycles so far."""

    format: int = FORMAT
    run: str
    finished: bool
    strategy: str
    federation: str
    privacy: Facts | None
    data: str
    seed: int
    seconds: float
    cycles: tuple[CycleRow, ...]


R = TypeVar("R", bound=Row)


_KINDS: tuple[type[Row], ...] = (RoundRow, QueryRow, Summary)
_ADAPTERS: dict[type[Row], TypeAdapter[Any]] = {k: TypeAdapter(k) for k in _KINDS}


def entry_of(row: Row) -> dict[str, Any]:
    """Return a row as files hold it.

    Examples
    --------
    >>> row = RoundRow(1, 2, 9, 3, math.nan, 0.5, None, 0.5, (1.0, math.nan), 0.1)
    >>> entry = entry_of(row)
    >>> entry["loss"], entry["rare-recall"], entry["client-recalls"]
    (None, None, '1.0 -')
    """
    entry: dict[str, Any] = _ADAPTERS[type(row)].dump_python(row, by_alias=True)
    return entry


def row_of(kind: type[R], entry: Mapping[str, Any]) -> R:
    """Return the row that a file's entry says; numbers may be text.

    Raises
    ------
    ValueError
        If the entry has not exactly the row's keys, or a value is of another type.
    """
    row: R = _ADAPTERS[kind].validate_python(entry)
    return row
