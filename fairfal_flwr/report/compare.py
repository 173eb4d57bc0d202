"""Strategies side by side, from the summaries of their runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.errors import UserError
from fairfal_flwr.report.learning_curve import MEASURES

__all__ = ["comparison"]

Summaries = Mapping[str, Sequence[Mapping[str, Any]]]


def comparison(groups: Summaries) -> str:
    """Return Markdown tables of each measure by strategy and cycle.

    Entries are the mean over the runs and, after ±, their standard deviation (n − 1),
    in percent. Strategies that share seeds with `random` are also compared with it in
    the last cycle, seed by seed.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Mapping]]
        From `read_summaries`: the runs of each strategy.

    Raises
    ------
    UserError
        If the runs label different shares of the images.
    """
    shares = {
        tuple(_column(run, "label_fraction"))
        for runs in groups.values()
        for run in runs
    }
    if len(shares) != 1:
        raise UserError(
            "The runs cannot be compared: they differ in cycles or in the share of "
            f"labeled images ({len(shares)} kinds among them)."
        )
    head = [f"{share:.0%}" for share in shares.pop()]
    lines = []
    for measure, title in MEASURES.items():
        lines += [f"| {title} at | runs | {' | '.join(head)} |"]
        lines += ["|---" * (len(head) + 2) + "|"]
        for name, runs in sorted(groups.items()):
            cells = _cells(np.array([_column(run, measure) for run in runs]))
            lines += [f"| {name} | {len(runs)} | {' | '.join(cells)} |"]
        lines += ["", *_paired_lines(groups, measure), ""]
    return "\n".join(lines).rstrip() + "\n"


def _column(run: Mapping[str, Any], measure: str) -> list[float]:
    return [row[measure] for row in run["cycles"]]


def _cells(values: NDArray[np.float64]) -> list[str]:
    """Return mean and spread of each column of (runs, cycles)."""
    means = 100 * values.mean(axis=0)
    if len(values) == 1:
        return [f"{mean:.1f}" for mean in means]
    spreads = 100 * values.std(axis=0, ddof=1)
    return [f"{m:.1f} ± {s:.1f}" for m, s in zip(means, spreads, strict=True)]


def _paired_lines(groups: Summaries, measure: str) -> list[str]:
    control = {
        run["seed"]: _column(run, measure)[-1] for run in groups.get("random", [])
    }
    lines = []
    for name, runs in sorted(groups.items()):
        gains = [
            100 * (_column(run, measure)[-1] - control[run["seed"]])
            for run in runs
            if run["seed"] in control
        ]
        if name != "random" and gains:
            each = ", ".join(f"{gain:+.1f}" for gain in gains)
            mean = sum(gains) / len(gains)
            what = f"{name} minus random, last cycle, seed by seed"
            lines.append(f"{what}: {each}; mean {mean:+.1f}.")
    return lines
