"""The pictures of a report, each small enough for a phone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.report.learning_curve import Measure, Summaries, column
from fairfal_flwr.report.palette import INK, LIGHT, in_ink, line_style
from fairfal_flwr.report.statistics import Ranking, mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "WIDTH",
    "asked_figure",
    "curve_figure",
    "model_figure",
    "rank_figure",
    "recall_figure",
    "stage_figure",
]

WIDTH = 4.0  # inches
HEIGHT = 3.1
LONG_NAME = 18
MARGIN = 15  # percentage points beyond the curves
MOST_CLASSES = 40  # whose names are all written

Counts = NDArray[np.int64]


@contextmanager
def _drawing(height: float = HEIGHT) -> Iterator[tuple["Figure", "Axes"]]:
    """Give a figure and its axes, in ink."""
    from matplotlib.figure import Figure

    with in_ink():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    if len(names) > 1:
        fits = max(map(len, names)) <= LONG_NAME
        figure.legend(loc="outside lower center", ncols=2 if fits else 1)


def _height(rows: int, each: float, names: Sequence[str]) -> float:
    return 1.1 + each * rows + 0.2 * math.ceil(len(names) / 2)


def curve_figure(groups: Summaries, title: str, measure: Measure) -> "Figure":
    """Draw a measure over the share of labels, with its band over the seeds.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Summary]]
        The runs of each name, which label the same shares.
    title : str
        Names the measure, which is a fraction.
    measure : Measure
        See `MEASURES`.
    """
    with _drawing(HEIGHT + 0.2 * len(groups)) as (figure, axes):
        for place, (name, runs) in enumerate(groups.items()):
            share = [100 * row.label_fraction for row in runs[0].cycles]
            values = 100 * np.array([column(run, measure) for run in runs])
            mean, half = mean_interval(values)
            style = line_style(place)
            axes.plot(share, mean, markersize=4, label=name, **style)
            if len(runs) > 1:
                band = {"color": style["color"], "alpha": 0.18, "linewidth": 0}
                axes.fill_between(share, mean - half, mean + half, **band)
        lines = np.array([line.get_ydata() for line in axes.lines], dtype=float)
        if np.isfinite(lines).any():  # bands of few seeds are wider than all there is
            low, high = np.nanmin(lines), np.nanmax(lines)
            axes.set_ylim(max(low - MARGIN, -2), min(high + MARGIN, 102))
        axes.set(xlabel="labeled images (% of all)", ylabel=f"{title} (%)")
        axes.grid(alpha=0.3)
        _legend(figure, list(groups))
    return figure


def recall_figure(
    recalls: Mapping[str, Counts], names: Sequence[str], sizes: Sequence[int] | None
) -> "Figure":
    """Draw the recall of each class, the largest class first.

    Parameters
    ----------
    recalls : Mapping of str to ndarray, shape (num_classes,)
        By strategy, fractions; nan for a class without test images.
    names : sequence of str, length num_classes
        Of the classes.
    sizes : sequence of int, length num_classes, optional
        Images of each class at all clients.
    """
    order = range(len(names)) if sizes is None else np.argsort(sizes)[::-1]
    labels = [names[i] if sizes is None else f"{names[i]}  {sizes[i]}" for i in order]
    each = 0.26 if len(names) <= MOST_CLASSES else 0.07
    with _drawing(_height(len(names), each, list(recalls))) as (figure, axes):
        rows = np.arange(len(names))
        spread = np.linspace(-0.25, 0.25, len(recalls)) if len(recalls) > 1 else [0]
        for place, (name, values) in enumerate(recalls.items()):
            style = line_style(place) | {"linestyle": "none"}
            axes.plot(
                100 * values[list(order)],
                rows + spread[place],
                markersize=4,
                label=name,
                **style,
            )
        step = 1 if len(names) <= MOST_CLASSES else 5
        axes.set_yticks(rows[::step], labels[::step])
        axes.set(xlabel="recall in the last cycle (% of test images)", xlim=(-3, 103))
        axes.set_ylabel(
            "class" if sizes is None else "class and its training images (number)"
        )
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(alpha=0.3)
        _legend(figure, list(recalls))
    return figure


def asked_figure(
    asked: Sequence[Counts], pools: Sequence[Counts], names: Sequence[str]
) -> "Figure":
    """Draw what was asked for against what the pool held, by class and cycle.

    The color is how many times as often a class was asked for as a random choice would
    have, which is asked_c / Σ asked over pool_c / Σ pool; the number is asked_c.

    Parameters
    ----------
    asked, pools : sequence of ndarray, shape (num_classes,)
        A pair for each cycle.
    names : sequence of str, length num_classes
        Of the classes, the largest first.
    """
    took, held = np.array(asked).T, np.array(pools).T
    with np.errstate(divide="ignore", invalid="ignore"):
        times = (took / took.sum(axis=0)) / (held / held.sum(axis=0))
        shades = np.clip(np.log2(times), -2, 2)
    each = 0.26 if len(names) <= MOST_CLASSES else 0.07
    with _drawing(_height(len(names), each, names[:1])) as (figure, axes):
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(np.where(held > 0, shades, np.nan)),
            cmap="PuOr_r",
            vmin=-2,
            vmax=2,
        )
        if len(names) <= MOST_CLASSES and len(asked) <= 10:
            for (row, at), count in np.ndenumerate(took):
                if held[row, at]:
                    color = "#ffffff" if abs(shades[row, at]) > 1.3 else "#000000"
                    spot = axes.text(at + 0.5, row + 0.5, str(count), color=color)
                    spot.set(ha="center", va="center", size=7)
        step = 1 if len(names) <= MOST_CLASSES else 5
        axes.set_yticks(np.arange(0, len(names), step) + 0.5, names[::step])
        every = 1 if len(asked) <= 12 else 5
        cycles = np.arange(0, len(asked), every)
        axes.set_xticks(cycles + 0.5, [str(cycle + 1) for cycle in cycles])
        axes.set(xlabel="cycle (number)", ylabel="class, the largest first")
        axes.invert_yaxis()
        bar = figure.colorbar(mesh, location="bottom", shrink=0.9, aspect=30)
        bar.set_ticks([-2, -1, 0, 1, 2], labels=["≤ ¼", "½", "1", "2", "≥ 4"])
        bar.set_label("asked for, times a random choice's share")
    return figure


def model_figure(shares: Mapping[str, Mapping[int, float]]) -> "Figure":
    """Draw at how many clients the global model judged, by cycle.

    Parameters
    ----------
    shares : Mapping of str to Mapping of int to float
        By strategy and cycle, a fraction of the clients.
    """
    with _drawing() as (figure, axes):
        for place, (name, by_cycle) in enumerate(shares.items()):
            percent = [100 * share for share in by_cycle.values()]
            style = line_style(place)
            axes.plot(list(by_cycle), percent, markersize=4, label=name, **style)
        axes.set(xlabel="cycle (number)", ylabel="global model queried (% of clients)")
        axes.set_ylim(-4, 104)
        axes.set_xticks(sorted({c for of in shares.values() for c in of}))
        axes.grid(alpha=0.3)
        _legend(figure, list(shares))
    return figure


def stage_figure(stages: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Draw where the time went, a bar for each strategy.

    Parameters
    ----------
    stages : Mapping of str to Mapping of str to float
        By strategy and stage, seconds of a run.
    """
    kinds = list(next(iter(stages.values())))
    longest = max(sum(of.values()) for of in stages.values())
    unit, size = ("min", 60.0) if longest > 300 else ("s", 1.0)
    hatches = ("", "//", "..", "xx", "\\\\", "++")
    with _drawing(1.4 + 0.35 * len(stages) + 0.1 * len(kinds)) as (figure, axes):
        left = np.zeros(len(stages))
        for place, kind in enumerate(kinds):
            width = np.array([of[kind] / size for of in stages.values()])
            bars = axes.barh(list(stages), width, 0.6, left=left, label=kind)
            for bar in bars:
                bar.set(facecolor=LIGHT[place], edgecolor="#ffffff", linewidth=0)
                bar.set_hatch(hatches[place % len(hatches)])
            left += width
        axes.set(xlabel=f"time of a run ({unit})", ylim=(len(stages) - 0.4, -0.6))
        _legend(figure, kinds)
    return figure


def rank_figure(found: Ranking, title: str) -> "Figure":
    """Draw a critical-difference diagram: strategies on a scale of mean ranks.

    Those whose mean ranks are closer than the critical difference are tied by a bar.

    Parameters
    ----------
    found : Ranking
        At least three strategies.
    title : str
        What they are ranked by.
    """
    items = sorted(found.ranks.items(), key=lambda item: item[1])
    ranks = [rank for _, rank in items]
    ties = tied(ranks, found.critical_difference)
    height = 1.3 + 0.2 * len(items) + 0.1 * len(ties)
    with _drawing(height) as (figure, axes):
        top = 0.6 + 0.5 * len(ties)
        for number, (first, last) in enumerate(ties):
            ends = [ranks[first] - 0.04, ranks[last] + 0.04]
            axes.plot(ends, [0.5 + 0.5 * number] * 2, color=LIGHT[0], linewidth=3)
        for number, (name, rank) in enumerate(items):
            depth = top + number
            axes.plot([rank, rank], [0, depth], color=INK, linewidth=0.8)
            side = "left" if rank < (1 + len(items)) / 2 else "right"
            text = f" {name}  {rank:.2f} "
            axes.text(rank, depth, text, ha=side, va="center", size=8)
        axes.set(
            xlim=(0.8, len(items) + 0.2),
            ylim=(top + len(items), 0),
            xlabel=f"mean rank by {title}, 1 is best\n"
            f"critical difference {found.critical_difference:.2f} "
            f"over {found.blocks} seeds and partitions",
        )
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        axes.set_xticks(range(1, len(items) + 1))
        axes.yaxis.set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.spines["top"].set_visible(True)
    return figure


def tied(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return first and last place of each largest set of ranks that are no different.

    Parameters
    ----------
    ranks : sequence of float
        Ascending.
    difference : float
        The critical difference.

    Examples
    --------
    >>> tied([1.0, 1.5, 2.4, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < difference)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found
