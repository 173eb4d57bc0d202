"""Arguments that more than one command of `fairfal` takes."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AppFolder", "Overrides"]

AppFolder = Annotated[
    Path, typer.Argument(metavar="[APP]", help="Folder of the Flower app.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--run-config", "-c", help="Overrides, as for `fairfal run`."),
]
