"""The commands `fairfal ledger check` and `fairfal ledger restore`."""

from pathlib import Path
from typing import Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.errors import UserError

__all__ = ["app"]

app = typer.Typer(
    help="Look after a client's label ledger; stop its SuperNode before.",
    no_args_is_help=True,
)

LedgerPath = Annotated[Path, typer.Argument(help="The ledger, a .sqlite file.")]


@app.command()
def check(path: LedgerPath) -> None:
    """Compare a ledger with its chain; nothing is written.

    Exits 0 if it is good, else 1.
    """
    from fairfal_flwr.client.ledger_backups import age, newest_good
    from fairfal_flwr.client.ledger_check import examine

    if not path.is_file():
        fail(f"There is no ledger {path}.", 2)
    try:
        head, num_answers = examine(path)
    except UserError as error:
        fail(str(error), 1)
    typer.echo(
        f"{path}: good; {head.entries} entries, {num_answers} answers; head "
        f"{head.digest}"
    )
    backup = newest_good(path)
    if backup:
        typer.echo(f"newest good backup: {backup.path}, {age(backup.path)} old")


@app.command()
def restore(
    path: LedgerPath,
    backup: Annotated[
        Path | None,
        typer.Option(help="What to restore; else the good backup with the most."),
    ] = None,
    known: Annotated[
        int, typer.Option(min=0, help="How many entries the server knows.")
    ] = 0,
) -> None:
    """Put a backup in a ledger's place; what stood there is renamed, not deleted."""
    from fairfal_flwr.client.ledger_backups import restore as put_back

    try:
        done = put_back(path, backup, known=known)
    except UserError as error:
        fail(str(error), 2)
    head, num_answers = done.source.summary
    typer.echo(
        f"{path}: {head.entries} entries, {num_answers} answers, from "
        f"{done.source.path}"
    )
    if done.num_lost:
        typer.echo(f"given up: the last {done.num_lost} entries that were known")
    if done.aside:
        typer.echo(f"what stood there: {done.aside}")
