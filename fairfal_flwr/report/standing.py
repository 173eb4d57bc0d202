"""Where a run stands, from its files alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np

from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.events import Event, EventKind
from fairfal_flwr.runs.lock import is_held
from fairfal_flwr.runs.reader import Run
from fairfal_flwr.runs.writer import CONFIG, EVENTS

__all__ = ["Left", "Standing", "State", "standing_of"]

FRESH = 10.0  # seconds after an event in which a run surely goes on


class State(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Left:
    """Seconds that a run still needs, by stage; nan where none was measured yet."""

    query: float
    train: float

    @property
    def total(self) -> float:
        """Of both; what is not known counts nothing."""
        return float(np.nansum([self.query, self.train]))


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Parameters
    ----------
    name, data, strategy : str
        The folder's name, and two keys of the configuration.
    seed : int
    state : State
        A run that nobody writes any more, and that did not say so, is stopped.
    reason : str
        Why it failed.
    cycle, num_cycles, round, num_rounds : int
        Of the cycle that it is in; round 0 during its query.
    labels : int
        Of all clients.
    curve : tuple of float
        Accuracies, one for each evaluation.
    rare_recall : float
        Of the last evaluation that knows it.
    stage : str
        What it does now.
    awaited : tuple of int
        Clients that the server waits for.
    left : Left
        While it runs.
    changed : datetime
        When it last said something.
    """

    name: str
    data: str
    strategy: str
    seed: int
    state: State
    reason: str
    cycle: int
    num_cycles: int
    round: int
    num_rounds: int
    labels: int
    curve: tuple[float, ...]
    rare_recall: float
    stage: str
    awaited: tuple[int, ...]
    left: Left
    changed: datetime

    @property
    def accuracy(self) -> float:
        """The last one; nan before the first."""
        return self.curve[-1] if self.curve else math.nan

    @property
    def is_over(self) -> bool:
        """Whether it does not go on by itself."""
        return self.state is not State.RUNNING


def standing_of(run: Run, now: datetime | None = None) -> Standing:
    """Return where a run stands.

    Raises
    ------
    UserError
        If it has no configuration or no events yet, or one of these lacks what it
        should say.
    """
    if run.config is None or not run.events:
        missing = CONFIG if run.config is None else EVENTS
        raise UserError(f"{run.folder} has no {missing}, or an empty one.")
    now = now or datetime.now(UTC)
    try:
        return _standing(run, run.config, now)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{run.folder / EVENTS} or {CONFIG} beside it is damaged: {error!r}."
        ) from None


def _standing(run: Run, config: Mapping[str, Any], now: datetime) -> Standing:
    moment = _moment(run)
    known = [row for row in run.rounds if row.accuracy is not None]
    rare = [row.rare_recall for row in known if row.rare_recall is not None]
    labels = [int(e.facts["labels"]) for e in _of(run, EventKind.QUERY_FINISHED)]
    state, reason = _state(run, now)
    goes_on = state is State.RUNNING
    num_cycles = int(config["campaign.num-cycles"])
    num_rounds = int(config["campaign.num-rounds"])
    return Standing(
        name=run.folder.name,
        data=str(config["data.name"]),
        strategy=str(config["query.strategy"]),
        seed=int(config["seed"]),
        state=state,
        reason=reason,
        cycle=moment[0],
        num_cycles=num_cycles,
        round=moment[1],
        num_rounds=num_rounds,
        labels=labels[-1] if labels else 0,
        curve=tuple(float(row.accuracy or 0) for row in known),
        rare_recall=rare[-1] if rare else math.nan,
        stage=_stage(run.events) if goes_on else state.value,
        awaited=_awaited(run.events) if goes_on else (),
        left=_left(run, moment, num_cycles, num_rounds),
        changed=run.events[-1].time,
    )


def _of(run: Run, *kinds: EventKind) -> list[Event]:
    return [event for event in run.events if event.kind in kinds]


def _moment(run: Run) -> tuple[int, int]:
    """Return the cycle that a run is in, and the rounds of it that are done."""
    cycle, number = 0, 0
    for event in run.events:
        if event.kind == EventKind.QUERY_STARTED:
            cycle, number = int(event.facts["cycle"]), 0
        elif event.kind in (EventKind.ROUND_FINISHED, EventKind.RESUMED):
            cycle, number = int(event.facts["cycle"]), int(event.facts["round"])
    return cycle, number


def _state(run: Run, now: datetime) -> tuple[State, str]:
    last = run.events[-1]
    if run.summary and run.summary.finished:
        return State.FINISHED, ""
    if last.kind == EventKind.FAILED:
        return State.FAILED, str(last.facts.get("reason") or "")
    if last.kind == EventKind.STOPPED:
        return State.STOPPED, ""
    is_fresh = (now - last.time).total_seconds() < FRESH
    if is_fresh or is_held(run.folder):
        return State.RUNNING, ""
    return State.STOPPED, ""


def _stage(events: Sequence[Event]) -> str:
    """Say what a run does now: the last thing that it began."""
    for event in reversed(events):
        facts = event.facts
        match event.kind:
            case EventKind.ANSWERING:
                number = sum(facts["open"])
                if number:
                    return f"waiting for {number} answers"
            case EventKind.QUERY_STARTED:
                return f"querying ({facts['strategy']})"
            case EventKind.ROUND_STARTED:
                return f"training, round {facts['round']}"
            case EventKind.ROUND_FINISHED | EventKind.CYCLE_FINISHED:
                return "aggregating"
            case EventKind.QUERY_FINISHED:
                return "about to train"
            case EventKind.RUN_STARTED | EventKind.RESUMED:
                return "waiting for the clients to connect"
    return ""


def _awaited(events: Sequence[Event]) -> tuple[int, ...]:
    """Return whom the server waits for, as it last said in this exchange."""
    for event in reversed(events):
        if event.kind in (EventKind.WAITING, EventKind.ASKED_AGAIN):
            return tuple(int(client) for client in event.facts["clients"])
        if event.kind == EventKind.ANSWERING:
            pairs = zip(event.facts["clients"], event.facts["open"], strict=True)
            return tuple(int(client) for client, number in pairs if number)
        if event.kind not in (EventKind.REPLY_DROPPED, EventKind.LEFT_OUT):
            return ()
    return ()


def _left(run: Run, moment: tuple[int, int], num_cycles: int, num_rounds: int) -> Left:
    """Measure each stage, and scale it by what is still to be done."""
    cycle, done = moment
    to_come = range(cycle + 1, num_cycles + 1)
    spent = _query_seconds(run)
    chosen = [seconds for at, seconds in spent.items() if at > 1]
    queries = len(to_come) + (cycle > 0 and cycle not in spent)
    per_query = float(np.mean(chosen)) if chosen else math.nan
    query = queries * per_query if queries else 0.0
    if not run.rounds:
        return Left(query, math.nan)
    labels = np.array([row.labels for row in run.rounds], dtype=float)
    seconds = np.array([row.seconds for row in run.rounds])
    per_cycle = labels[-1] / run.rounds[-1].cycle
    slope, start = (
        np.polyfit(labels, seconds, 1)
        if len(set(labels)) > 1
        else (0.0, seconds.mean())
    )
    rounds = [(cycle, num_rounds - done), *((c, num_rounds) for c in to_come)]
    train = sum(n * max(0.0, start + slope * c * per_cycle) for c, n in rounds)
    return Left(query, float(train))


def _query_seconds(run: Run) -> dict[int, float]:
    """Return how long each cycle's query took, people's answers included."""
    spent, started = {}, None
    for event in _of(run, EventKind.QUERY_STARTED, EventKind.QUERY_FINISHED):
        if event.kind == EventKind.QUERY_STARTED:
            started = event
        elif started and started.facts["cycle"] == event.facts["cycle"]:
            passed = event.time - started.time
            spent[int(event.facts["cycle"])] = passed.total_seconds()
    return spent
