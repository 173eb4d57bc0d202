"""Accuracy against labels, drawn from the summaries of runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fairfal_flwr.report.pictures import save_figure
from fairfal_flwr.runs.rows import CycleRow, Summary

__all__ = ["MEASURES", "Measure", "Summaries", "column", "draw_learning_curve"]

Summaries = Mapping[str, Sequence[Summary]]

Measure = Callable[[CycleRow], float]
MEASURES: dict[str, Measure] = {
    "test accuracy": lambda row: row.accuracy,
    "recall, rarest third": lambda row: row.rare_recall,
}


def column(run: Summary, measure: Measure) -> list[float]:
    """Return a measure of each cycle of a run; nan where it is not known."""
    return [measure(row) for row in run.cycles]


def draw_learning_curve(groups: Summaries, path: Path) -> None:
    """Draw accuracy and rare-class recall over the share of labels.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Summary]]
        Runs by name. Those of one name are averaged; the band is their standard
        deviation.
    path : Path
        The file to write; its ending says the format.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharex=True)
    for name, runs in groups.items():
        share = [100 * row.label_fraction for row in runs[0].cycles]
        for axis, (title, measure) in zip(axes, MEASURES.items(), strict=True):
            values = 100 * np.array([column(run, measure) for run in runs])
            mean = values.mean(axis=0)
            axis.plot(share, mean, marker="o", markersize=4, label=name)
            if len(runs) > 1:
                spread = values.std(axis=0, ddof=1)
                axis.fill_between(share, mean - spread, mean + spread, alpha=0.2)
            axis.set(title=title, xlabel="labeled images (%)", ylabel="%")
            axis.grid(alpha=0.3)
            axis.legend(loc="lower right")
    save_figure(figure, path)
