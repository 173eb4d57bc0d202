"""Accuracy against labels, drawn from the summaries of runs."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.rows import CycleRow, Summary

__all__ = ["MEASURES", "Measure", "column", "draw_learning_curve", "read_summaries"]

Measure = Callable[[CycleRow], float]
MEASURES: dict[str, Measure] = {
    "test accuracy": lambda row: row.accuracy,
    "recall, rarest third": lambda row: row.rare_recall,
}


def read_summaries(folders: Iterable[Path]) -> dict[str, list[Summary]]:
    """Return the runs' summaries, grouped by query strategy.

    Parameters
    ----------
    folders : iterable of Path
        Folders of results, each with a summary.

    Raises
    ------
    UserError
        If a folder has none.
    """
    groups: dict[str, list[Summary]] = {}
    for folder in folders:
        summary = read_run(folder).summary
        if summary is None:
            raise UserError(f"{folder} has no summary yet: no cycle is finished.")
        groups.setdefault(summary.strategy, []).append(summary)
    return groups


def column(run: Summary, measure: Measure) -> list[float]:
    """Return a measure of each cycle of a run; nan where it is not known."""
    return [measure(row) for row in run.cycles]


def draw_learning_curve(folders: Sequence[Path], path: Path) -> None:
    """Draw accuracy and rare-class recall over the share of labels.

    Parameters
    ----------
    folders : sequence of Path
        Folders of results. Runs of one strategy are averaged; the band is their
        standard deviation.
    path : Path
        The PNG to write.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharex=True)
    for strategy, runs in read_summaries(folders).items():
        share = [100 * row.label_fraction for row in runs[0].cycles]
        for axis, (title, measure) in zip(axes, MEASURES.items(), strict=True):
            values = 100 * np.array([column(run, measure) for run in runs])
            mean, spread = values.mean(axis=0), values.std(axis=0, ddof=len(runs) > 1)
            axis.plot(share, mean, marker="o", markersize=4, label=strategy)
            if len(runs) > 1:
                axis.fill_between(share, mean - spread, mean + spread, alpha=0.2)
            axis.set(title=title, xlabel="labeled images (%)", ylabel="%")
            axis.grid(alpha=0.3)
            axis.legend(loc="lower right")
    figure.savefig(path, dpi=120, format="png")
