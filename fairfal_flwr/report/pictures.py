"""Figures as files, in the format that the file's ending names."""

from pathlib import Path
from typing import TYPE_CHECKING

from fairfal_flwr.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_ending", "save_figure"]

ENDINGS = (".png", ".svg", ".pdf")
DOTS_PER_INCH = 120


def check_ending(path: Path) -> None:
    """Make sure that a picture's ending is known, before anything is drawn.

    Raises
    ------
    UserError
        If it is not.
    """
    if path.suffix.lower() not in ENDINGS:
        found = path.suffix or "no ending"
        raise UserError(
            f"The picture {path} has {found}; allowed endings: {', '.join(ENDINGS)}."
        )


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure."""
    figure.savefig(path, dpi=DOTS_PER_INCH, format=path.suffix.lower().lstrip("."))
