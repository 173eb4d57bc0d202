"""What happens in a run, as it happens: the lines of events.jsonl."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from fairfal_flwr.runs.rows import filed_facts, read_facts

__all__ = ["Event", "EventKind", "entry_of_event", "event_of"]

_HEAD = ("time", "event")


class EventKind(StrEnum):
    """What an event tells, and the facts that come with it.

    ================  ==============================================================
    `run-started`     run, version (of this package)
    `resumed`         cycle, round (of the checkpoint), version
    `clients-met`     images, gpus (how many all clients have)
    `query-started`   cycle, strategy
    `query-finished`  cycle, strategy, selected, labels (of all clients together)
    `answering`       cycle, clients, open, labeled (questions without an answer and
                      labels of each of them), seconds-left (null without deadline)
    `round-started`   cycle, round
    `waiting`         clients (who have not answered yet), seconds (so far)
    `reply-dropped`   client, reason
    `asked-again`     clients (who get the same request once more)
    `left-out`        what (query of which cycle), clients (without whom it goes on)
    `exchanged`       message (its type), asked, answered (clients, the good replies),
                      seconds, bytes-sent, bytes-received (of arrays)
    `round-finished`  cycle, round, clients (whose replies were used), loss, seconds
    `evaluated`       cycle, round, accuracy, rare-recall
    `cycle-finished`  cycle, labels
    `finished`        seconds; every file is complete
    `failed`          reason
    `stopped`         reason (null): somebody ended the run
    ================  ==============================================================
    """

    RUN_STARTED = "run-started"
    RESUMED = "resumed"
    CLIENTS_MET = "clients-met"
    QUERY_STARTED = "query-started"
    QUERY_FINISHED = "query-finished"
    ANSWERING = "answering"
    ROUND_STARTED = "round-started"
    WAITING = "waiting"
    REPLY_DROPPED = "reply-dropped"
    ASKED_AGAIN = "asked-again"
    LEFT_OUT = "left-out"
    EXCHANGED = "exchanged"
    ROUND_FINISHED = "round-finished"
    EVALUATED = "evaluated"
    CYCLE_FINISHED = "cycle-finished"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl.

    Parameters
    ----------
    time : datetime
        In UTC; the file keeps milliseconds.
    kind : EventKind
        What happened.
    facts : Mapping[str, Any]
        By name in snake_case; in the file they stand beside `time` and `event`.
    """

    time: datetime
    kind: EventKind
    facts: Mapping[str, Any]


def entry_of_event(event: Event) -> dict[str, Any]:
    """Return an event as events.jsonl holds it."""
    head = event.time.isoformat(timespec="milliseconds"), event.kind.value
    facts: dict[str, Any] = filed_facts(event.facts)
    return dict(zip(_HEAD, head, strict=True)) | facts


def event_of(entry: object) -> Event:
    """Return the event that a line of events.jsonl says.

    Raises
    ------
    ValueError
        If time or kind is missing or unreadable.
    """
    facts = read_facts(entry)
    if not isinstance(facts, dict):
        raise ValueError("an event is an object")
    time, kind = (str(facts.pop(key, "")) for key in _HEAD)
    return Event(datetime.fromisoformat(time), EventKind(kind), facts)
