"""Colors of pictures, on paper and on a page that is light or dark.

Each line also has a marker and a dash of its own, so that color is never all there is.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DARK",
    "DARK_PAPER",
    "INK",
    "LIGHT",
    "LIGHT_PAPER",
    "in_ink",
    "line_style",
    "svg_of",
]

INK = "#1b1b1c"  # all text and every axis; a page puts its own in its place
LIGHT_PAPER, DARK_PAPER = "#ffffff", "#16181b"
LIGHT = (
    *("#0072b2", "#d55e00", "#117733", "#cc6677"),
    *("#332288", "#8c6d00", "#882255", "#4d4d4d"),
)
DARK = (
    *("#56b4e9", "#ff9a4d", "#5fd08a", "#ffc2dd"),
    *("#a9a3f0", "#f0e442", "#f0708f", "#c8c8c8"),
)
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")


@contextmanager
def in_ink() -> Iterator[None]:
    """Have the figures that are made within use `INK` for all that is no data."""
    from matplotlib import rc_context

    inks = ("text.color", "axes.labelcolor", "axes.edgecolor")
    style: Any = dict.fromkeys((*inks, "xtick.color", "ytick.color"), INK)
    style |= {"font.size": 9, "axes.titlesize": 9, "legend.frameon": False}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        yield


def line_style(place: int) -> dict[str, Any]:
    """Return color, marker and dash of the line in some place."""
    return {
        "color": LIGHT[place % len(LIGHT)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[(place + place // len(LIGHT)) % len(DASHES)],
    }


def svg_of(figure: "Figure") -> str:
    """Return a figure as SVG for a page, whose style sheet says the colors.

    Text stays text. The ink becomes the color of the text around, the color of a line
    the variable `--line-0` and so on; there is no ground.
    """
    from matplotlib import rc_context

    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fairfal"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for place, color in enumerate(LIGHT):
        svg = svg.replace(color, f"var(--line-{place})")
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
