"""The command `fairfal runs`."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.errors import UserError

if TYPE_CHECKING:
    from fairfal_flwr.report.standing import Standing

__all__ = ["folders_of_runs", "runs"]

HEADS = ("run", "data", "strategy", "seed", "cycle", "accuracy", "age", "state")
WIDE = 112  # columns that a whole name needs beside all else


def runs(
    folder: Annotated[
        str, typer.Argument(help="Holds the runs; else the default folder.")
    ] = "",
) -> None:
    """List runs, the newest first: how far they are, and what became of them.

    The age is the time since a run last said something.
    """
    from rich.console import Console

    try:
        standings = list(_standings(folder))
    except UserError as error:
        fail(str(error), 2)
    console = Console()
    if console.is_terminal:
        console.print(_table(standings, console.width))
        return
    for cells in [HEADS, *(_cells(standing) for standing in standings)]:
        typer.echo("\t".join(cells))


def folders_of_runs(folder: str) -> list[Path]:
    """Return the folders of runs in a folder, the newest first.

    Raises
    ------
    UserError
        If it holds none.
    """
    from fairfal_flwr.paths import output_root
    from fairfal_flwr.report.groups import find_runs

    return find_runs([output_root(folder)])[::-1]


def _standings(folder: str) -> Iterator["Standing"]:
    """Yield where each run stands; who cannot be read gets a line."""
    from fairfal_flwr.report.standing import standing_of
    from fairfal_flwr.runs.reader import read_run

    for place in folders_of_runs(folder):
        try:
            yield standing_of(read_run(place))
        except UserError as error:
            typer.echo(f"fairfal: {error}", err=True)


def _cells(standing: "Standing") -> list[str]:
    from fairfal_flwr.report.live import percent

    age = (datetime.now(UTC) - standing.changed).total_seconds()
    return [
        *(standing.name, standing.data, standing.strategy, str(standing.seed)),
        f"{standing.cycle}/{standing.num_cycles}",
        percent(standing.accuracy),
        roughly(age),
        standing.state.value,
    ]


def roughly(seconds: float) -> str:
    """Return a time in its largest unit.

    Examples
    --------
    >>> roughly(59), roughly(3700), roughly(200_000)
    ('59 s', '1 h', '2 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _table(standings: list["Standing"], width: int) -> object:
    """Return a table; on a narrow terminal a run is named by the end of its name."""
    from rich.table import Table

    from fairfal_flwr.report.live import COLORS

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for head in HEADS:
        right = head in ("seed", "cycle", "accuracy", "age")
        fixed = head != "strategy"
        table.add_column(head, justify="right" if right else "left", no_wrap=fixed)
    for standing in standings:
        name, *others, state = _cells(standing)
        shown = name if width >= WIDE else name.rpartition("-")[2]
        color = COLORS[standing.state]
        table.add_row(shown, *others, f"[{color}]{state}[/{color}]")
    return table
