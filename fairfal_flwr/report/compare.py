"""Strategies side by side, from the summaries of their runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.errors import UserError
from fairfal_flwr.report.learning_curve import MEASURES, Measure, column
from fairfal_flwr.runs.rows import Summary

__all__ = ["comparison"]

Summaries = Mapping[str, Sequence[Summary]]


def comparison(groups: Summaries) -> str:
    """Return Markdown tables of each measure by strategy and cycle.

    Entries are the mean over the runs and, after ±, their standard deviation (n − 1),
    in percent. Strategies that share seeds with `random` are also compared with it in
    the last cycle, seed by seed.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Summary]]
        From `read_summaries`: the runs of each strategy.

    Raises
    ------
    UserError
        If the runs label different shares of the images.
    """
    shares = {
        tuple(row.label_fraction for row in run.cycles)
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
    for title, measure in MEASURES.items():
        lines += [f"| {title} at | runs | {' | '.join(head)} |"]
        lines += ["|---" * (len(head) + 2) + "|"]
        for name, runs in sorted(groups.items()):
            cells = _cells(np.array([column(run, measure) for run in runs]))
            lines += [f"| {name} | {len(runs)} | {' | '.join(cells)} |"]
        lines += ["", *_paired_lines(groups, measure), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cells(values: NDArray[np.float64]) -> list[str]:
    """Return mean and spread of each column of (runs, cycles); - for an unknown one."""
    means = 100 * values.mean(axis=0)
    cells = [f"{mean:.1f}" for mean in means]
    if len(values) > 1:
        spreads = 100 * values.std(axis=0, ddof=1)
        cells = [f"{c} ± {s:.1f}" for c, s in zip(cells, spreads, strict=True)]
    return ["-" if np.isnan(m) else c for m, c in zip(means, cells, strict=True)]


def _paired_lines(groups: Summaries, measure: Measure) -> list[str]:
    control = {run.seed: column(run, measure)[-1] for run in groups.get("random", [])}
    lines = []
    for name, runs in sorted(groups.items()):
        differences = [
            100 * (column(run, measure)[-1] - control[run.seed])
            for run in runs
            if run.seed in control
        ]
        gains = [gain for gain in differences if not np.isnan(gain)]
        if name != "random" and gains:
            each = ", ".join(f"{gain:+.1f}" for gain in gains)
            mean = sum(gains) / len(gains)
            what = f"{name} minus random, last cycle, seed by seed"
            lines.append(f"{what}: {each}; mean {mean:+.1f}.")
    return lines
