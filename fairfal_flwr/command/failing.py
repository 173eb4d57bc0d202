"""How a command of `fairfal` ends that cannot do what it was asked."""

import sys
from typing import Any, NoReturn

import typer
from click import Abort, UsageError
from typer.core import TyperGroup

__all__ = ["OneLine", "fail"]


def fail(message: str, status: int) -> NoReturn:
    """Say why in one line and exit."""
    typer.echo(f"fairfal: {message}", err=True)
    raise typer.Exit(status) from None


class OneLine(TyperGroup):
    """Commands whose wrong use is answered with one line, as any other mistake."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run, and exit with the command's status."""
        try:
            status = super().main(*args, **{**options, "standalone_mode": False})
        except UsageError as error:
            typer.echo(f"fairfal: {_in_words(error)}", err=True)
            status = error.exit_code
        except Abort:
            status = 130
        sys.exit(status or 0)


def _in_words(error: UsageError) -> str:
    has_hint = "Did you mean" in error.message  # which Click would say once more
    words = error.message if has_hint else error.format_message()
    command = error.ctx.command_path if error.ctx else "fairfal"
    sentence = " ".join(words.split())
    end = "" if sentence.endswith((".", "?")) else "."
    return f"{sentence}{end} See: {command} --help"
