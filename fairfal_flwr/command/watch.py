"""The command `fairfal watch`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.command.runs import folders_of_runs
from fairfal_flwr.errors import UserError

if TYPE_CHECKING:
    from fairfal_flwr.report.standing import Standing

__all__ = ["changes", "find_watched", "watch"]

EVERY = 1.0  # seconds between two looks


def watch(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]",
            help="Its folder, its name or a part of that; else the newest that runs.",
        ),
    ] = "",
    folder: Annotated[
        str, typer.Option(help="Holds the runs; else the default folder.")
    ] = "",
) -> None:
    """Show a run while it goes on, whoever started it; Ctrl-C only ends the watching.

    It reads the files of the run and writes none. Without a terminal it prints a line
    for each change.
    """
    from rich.console import Console
    from rich.live import Live

    from fairfal_flwr.report.live import live_view, plain_line

    console = Console()
    try:
        standings = changes(find_watched(run, folder), lambda: time.sleep(EVERY))
        if not console.is_terminal:
            said = None
            for standing in standings:
                if (news := _news(standing)) != said:
                    typer.echo(plain_line(standing))
                said = news
            return
        with Live(console=console, auto_refresh=False) as live:
            for standing in standings:
                live.update(live_view(standing), refresh=True)
    except UserError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def find_watched(name: str, folder: str) -> Path:
    """Return the folder of the run that somebody means.

    Parameters
    ----------
    name : str
        A folder, a run's name or a part of it; empty is the newest run that goes on,
        else the newest.
    folder : str
        Holds the runs; empty is the default.

    Raises
    ------
    UserError
        If there is none, or more than one.
    """
    from fairfal_flwr.runs.reader import is_run

    if name and is_run(place := Path(name).expanduser().absolute()):
        return place
    found = [place for place in folders_of_runs(folder) if name in place.name]
    exact = [place for place in found if place.name == name]
    if not found:
        raise UserError(f"No run in {folders_of_runs(folder)[0].parent} is {name!r}.")
    if name and len(exact or found) > 1:
        names = ", ".join(place.name for place in found[:3])
        raise UserError(
            f"{name!r} is a part of {len(found)} runs' names ({names}…); say more."
        )
    return (exact or [p for p in found if not name and _goes_on(p)] or found)[0]


def changes(folder: Path, pause: Callable[[], None]) -> Iterator["Standing"]:
    """Yield where a run stands whenever that has changed, until it is over.

    Parameters
    ----------
    folder : Path
        The run's.
    pause : callable
        Waits before the next look.
    """
    from fairfal_flwr.report.standing import standing_of
    from fairfal_flwr.runs.reader import read_run

    seen: list[tuple[str, int, int]] = []
    last = None
    while last is None or not last.is_over:
        if (stamps := _stamps(folder)) != seen:
            run, seen = read_run(folder), stamps  # what came between is read again
        standing = standing_of(run)
        if standing != last:
            yield standing
        if not standing.is_over:
            pause()
        last = standing


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Return what changes when a file does; long runs take long to read."""
    from fairfal_flwr.runs.reader import NAMES

    stats = [
        (name, (folder / name).stat()) for name in NAMES if (folder / name).is_file()
    ]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _news(standing: "Standing") -> tuple[object, ...]:
    """Return what is worth a line when it changes."""
    where = standing.cycle, standing.round, standing.labels
    return (*where, standing.awaited, standing.state)


def _goes_on(folder: Path) -> bool:
    from fairfal_flwr.report.standing import standing_of
    from fairfal_flwr.runs.reader import read_run

    try:
        return not standing_of(read_run(folder)).is_over
    except UserError:
        return False
