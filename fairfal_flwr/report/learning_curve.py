"""Accuracy against labels, drawn from the summaries of runs."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairfal_flwr.errors import UserError

__all__ = ["column", "draw_learning_curve", "read_summaries"]

MEASURES = {"accuracy": "test accuracy", "rare_recall": "recall, rarest third"}


def read_summaries(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs' summaries, grouped by query strategy.

    Parameters
    ----------
    folders : iterable of Path
        Folders of results, each with a `summary.json`.

    Raises
    ------
    UserError
        If a folder has none.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        path = folder / "summary.json"
        if not path.is_file():
            raise UserError(
                f"{folder} is no folder of results: it has no summary.json."
            )
        summary = json.loads(path.read_text())
        groups.setdefault(summary["strategy"], []).append(summary)
    return groups


def column(run: Mapping[str, Any], measure: str) -> list[float]:
    """Return a measure of each cycle of a run; nan where it is not known."""
    return [math.nan if (v := row[measure]) is None else v for row in run["cycles"]]


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
        share = [100 * row["label_fraction"] for row in runs[0]["cycles"]]
        for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
            values = 100 * np.array([column(run, measure) for run in runs])
            mean, spread = values.mean(axis=0), values.std(axis=0, ddof=len(runs) > 1)
            axis.plot(share, mean, marker="o", markersize=4, label=strategy)
            if len(runs) > 1:
                axis.fill_between(share, mean - spread, mean + spread, alpha=0.2)
            axis.set(title=title, xlabel="labeled images (%)", ylabel="%")
            axis.grid(alpha=0.3)
            axis.legend(loc="lower right")
    figure.savefig(path, dpi=120, format="png")
