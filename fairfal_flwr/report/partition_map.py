"""Who has how much of what: images of each class at each client, as a heat map."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fairfal_flwr.report.palette import in_ink
from fairfal_flwr.report.pictures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_partition_map", "partition_figure"]

CELL = 0.55
MOST_NUMBERS = 20
NAME_LENGTH = 16


def draw_partition_map(
    counts: npt.NDArray[np.int64],
    class_names: Sequence[str],
    path: Path,
    *,
    title: str = "",
) -> None:
    """Draw a table of classes and clients; darker is more.

    Parameters
    ----------
    counts, class_names, title
        See `partition_figure`.
    path : Path
        The file to write; its ending says the format.
    """
    save_figure(partition_figure(counts, class_names, title=title), path)


def partition_figure(
    counts: npt.NDArray[np.int64], class_names: Sequence[str], *, title: str = ""
) -> "Figure":
    """Return the figure of such a table.

    Parameters
    ----------
    counts : ndarray, shape (num_clients, num_classes)
        Images of each class at each client.
    class_names : sequence of str, length num_classes
        The names of the rows.
    title : str
        What was dealt, and how.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    num_clients, num_classes = counts.shape
    size = (
        min(max(2.5 + CELL * num_clients, 6), 24),
        min(max(2 + CELL * num_classes, 3.5), 24),
    )
    with in_ink():
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
    # Small counts differ more than large ones: color goes by the square root.
    axes.imshow(np.sqrt(counts.T), cmap="Blues", aspect="auto", vmin=0)
    names = [_short(name) for name in class_names]
    axes.set(title=title, xlabel="client and its images", ylabel="class and its images")
    _label(axes.xaxis, [str(client) for client in range(num_clients)], counts.sum(1))
    _label(axes.yaxis, names, counts.sum(0), separator="  ")
    if max(counts.shape) <= MOST_NUMBERS:
        half = np.sqrt(counts.max()) / 2
        for (client, label), count in np.ndenumerate(counts):
            color = "white" if count**0.5 > half else "black" if count else "lightgray"
            axes.text(
                client, label, str(count), ha="center", va="center", color=color, size=8
            )
    return figure


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _label(
    axis: object,
    names: Sequence[str],
    sums: npt.NDArray[np.int64],
    *,
    separator: str = "\n",
) -> None:
    """Write name and sum at every position, or at every so many of a long axis."""
    step = -(-len(names) // (2 * MOST_NUMBERS))
    positions = range(0, len(names), step)
    labels = [f"{names[p]}{separator}{sums[p]}" for p in positions]
    axis.set_ticks(list(positions), labels)  # type: ignore[attr-defined]
