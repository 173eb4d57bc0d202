"""The command `fairfal report`."""

from pathlib import Path
from typing import Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.errors import UserError

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, or of many of them.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder to write; else `report`."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="What the others are compared with, pair by pair.")
    ] = "",
) -> None:
    """Write a page of runs with curves, classes, queries, times and partition.

    One HTML file that needs no other, beside it each picture as a PNG and all tables in
    Markdown. Without `--output` they go into `report` in the folder of a single run,
    else in the working directory.
    """
    try:
        page = _report(folders, output, baseline)
    except UserError as error:
        fail(str(error), 2)
    typer.echo(page)


def _report(folders: list[Path], output: Path | None, baseline: str) -> Path:
    from fairfal_flwr.command.simulated import facts_of
    from fairfal_flwr.report.groups import find_runs, read_groups
    from fairfal_flwr.report.page import PAGE, write_report

    groups = read_groups(folders)
    for line in groups.left_out:
        typer.echo(f"fairfal: {line}", err=True)
    groups.check_baseline(baseline)
    found = find_runs(folders)
    folder = output or (found[0] if len(found) == 1 else Path()) / "report"
    facts = {
        member.run.folder.name: facts_of(member.run)
        for members in groups.finished.values()
        for member in members
    }
    try:
        write_report(groups, facts, folder, baseline)
    except OSError as error:
        raise UserError(
            f"Cannot write the report to {folder}: {error.strerror or error}."
        ) from None
    return folder / PAGE
