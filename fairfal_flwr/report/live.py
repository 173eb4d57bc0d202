"""A run at a glance, for a terminal or a line of text."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fairfal_flwr.console import duration, one_line
from fairfal_flwr.report.standing import Standing, State

__all__ = ["COLORS", "live_view", "percent", "plain_line", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
MOST_NAMED = 12  # clients
COLORS = {
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.STOPPED: "yellow",
    State.FAILED: "red",
}


def percent(share: float) -> str:
    """Return a share for people.

    Examples
    --------
    >>> percent(0.7345), percent(float("nan"))
    ('73.5 %', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return values as bars of text, from the smallest to the largest.

    Examples
    --------
    >>> sparkline([0.1, 0.5, 0.9])
    '▁▅█'
    """
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    step = max(1, math.ceil(len(known) / width))
    kept = known[::-1][::step][::-1]  # the last one stays
    return "".join(BARS[math.floor((value - low) * scale + 0.5)] for value in kept)


def plain_line(standing: Standing) -> str:
    """Return where a run stands in one line."""
    parts = [
        f"cycle {standing.cycle}/{standing.num_cycles}",
        f"round {standing.round}/{standing.num_rounds}",
        f"labels {standing.labels}",
        f"accuracy {percent(standing.accuracy)}",
        f"rarest third {percent(standing.rare_recall)}",
        standing.stage,
    ]
    if standing.awaited:
        parts.append(f"awaited: {_clients(standing.awaited)}")
    if not standing.is_over:
        parts.append(f"left {_left(standing)}")
    if standing.reason:
        parts.append(one_line(standing.reason))
    return "  ".join(parts)


def live_view(standing: Standing) -> RenderableType:
    """Return where a run stands for a terminal."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(standing):
        table.add_row(name, value)
    state = Text(standing.state.value, style=f"bold {COLORS[standing.state]}")
    title = Text.assemble(state, "  ", (standing.name, "bold"), overflow="fold")
    return Group(title, table)


def _rows(standing: Standing) -> Iterator[tuple[str, RenderableType]]:
    what = f"{standing.data}, {standing.strategy}, seed {standing.seed}"
    yield "run", Text(what)
    done = max(0, standing.cycle - 1) + standing.round / standing.num_rounds
    yield "cycle", _bar(done, standing.num_cycles, f"{standing.cycle}")
    yield "round", _bar(standing.round, standing.num_rounds, f"{standing.round}")
    yield "labels", Text(str(standing.labels))
    curve = f"{percent(standing.accuracy)}  {sparkline(standing.curve)}"
    yield "accuracy", Text(curve)
    yield "rarest third", Text(percent(standing.rare_recall))
    if standing.is_over:
        if standing.reason:
            yield "reason", Text(one_line(standing.reason), style="red")
        return
    yield "now", Text(standing.stage)
    if standing.awaited:
        yield "awaited", Text(_clients(standing.awaited), style="yellow")
    yield "time left", Text(_left(standing))


def _bar(done: float, total: int, number: str) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=total, completed=done, width=30), f"{number} of {total}"
    )
    return row


def _clients(clients: Sequence[int]) -> str:
    named = ", ".join(str(client) for client in clients[:MOST_NAMED])
    more = len(clients) - MOST_NAMED
    kind = "client" if len(clients) == 1 else "clients"
    return f"{kind} {named}{f' and {more} more' if more > 0 else ''}"


def _left(standing: Standing) -> str:
    """Say how long it takes, and which part of it each stage."""
    left = standing.left
    if math.isnan(left.train):
        return "not known before the first round"
    stages = f"training {duration(left.train)}"
    if math.isnan(left.query):
        return f"{stages}, and queries, of which none was measured"
    return f"{duration(left.total)} ({stages}, queries {duration(left.query)})"
