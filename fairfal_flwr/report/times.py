"""Where the time of a run went, and what it sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import Run
from fairfal_flwr.runs.writer import EVENTS

__all__ = ["STAGES", "Traffic", "seconds_by_stage", "traffic_of"]

STAGES = {
    "query.status": "wait for answers",
    "query.imbalance": "measure imbalance",
    "query.select": "query",
    "train": "train",
    "evaluate": "test on clients",
}
REST = "aggregate, test, save"


@dataclass(frozen=True)
class Traffic:
    """Bytes of arrays, between the server and all clients together.

    Parameters
    ----------
    rounds : int
        Exchanges of weights for training.
    sent, received : float
        Of a round, in the mean.
    total : int
        Of all messages, both ways.
    """

    rounds: int
    sent: float
    received: float
    total: int


class _Exchange(NamedTuple):
    message: str
    seconds: float
    bytes_sent: int
    bytes_received: int


def seconds_by_stage(run: Run) -> dict[str, float]:
    """Return the seconds of each stage, as the server saw it; what is left comes last.

    Rounds that were done once more after a stop count each time.
    """
    spent = dict.fromkeys(STAGES.values(), 0.0)
    for exchange in _exchanges(run):
        if (stage := STAGES.get(exchange.message)) is not None:
            spent[stage] += exchange.seconds
    whole = run.summary.seconds if run.summary else 0.0
    return spent | {REST: max(0.0, whole - sum(spent.values()))}


def traffic_of(runs: Sequence[Run]) -> Traffic:
    """Return what some runs sent and received."""
    exchanges = [exchange for run in runs for exchange in _exchanges(run)]
    rounds = [each for each in exchanges if each.message == "train"]
    number = max(1, len(rounds))
    return Traffic(
        rounds=len(rounds),
        sent=sum(each.bytes_sent for each in rounds) / number,
        received=sum(each.bytes_received for each in rounds) / number,
        total=sum(each.bytes_sent + each.bytes_received for each in exchanges),
    )


def _exchanges(run: Run) -> list[_Exchange]:
    return [
        _exchange(run, event.facts)
        for event in run.events
        if event.kind == EventKind.EXCHANGED
    ]


def _exchange(run: Run, facts: Mapping[str, Any]) -> _Exchange:
    """Read an event, whose facts no reader has looked at yet."""
    numbers = []
    for key in ("seconds", "bytes_sent", "bytes_received"):
        if not isinstance(value := facts.get(key), int | float):
            raise UserError(
                f"{run.folder / EVENTS} is damaged: an `exchanged` whose "
                f"`{key.replace('_', '-')}` is {value!r}; allowed: a number."
            )
        numbers.append(value)
    seconds, sent, received = numbers
    return _Exchange(str(facts.get("message")), seconds, int(sent), int(received))
