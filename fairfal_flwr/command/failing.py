"""How a command of `fairfal` ends that cannot do what it was asked."""

from typing import NoReturn

import typer

__all__ = ["fail"]


def fail(message: str, status: int) -> NoReturn:
    """Say why in one line and exit."""
    typer.echo(f"fairfal: {message}", err=True)
    raise typer.Exit(status) from None
