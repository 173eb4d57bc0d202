"""Strategies side by side, from the summaries of their runs."""

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.errors import UserError
from fairfal_flwr.report.learning_curve import MEASURES, Measure, Summaries, column

__all__ = ["comparison"]

BASELINE = "random"


def comparison(groups: Summaries, baseline: str = "") -> str:
    """Return Markdown tables of each measure by strategy and cycle.

    Entries are the mean over the runs and, after ±, their standard deviation (n − 1),
    in percent. Groups that share seeds with the baseline are also compared with it in
    the last cycle, seed by seed.

    Parameters
    ----------
    groups : Mapping[str, Sequence[Summary]]
        The runs of each name, as of `read_groups`.
    baseline : str, optional
        The name of one of them; `random` where it is left out, if that is there.

    Raises
    ------
    UserError
        If the runs label different shares of the images, or the baseline is none of
        the groups.
    """
    if baseline and baseline not in groups:
        raise UserError(
            f"The baseline is {baseline!r}; allowed: {'; '.join(sorted(groups))}."
        )
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
        lines += ["", *_paired_lines(groups, measure, baseline or BASELINE), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cells(values: NDArray[np.float64]) -> list[str]:
    """Return mean and spread of each column of (runs, cycles); - for an unknown one."""
    means = 100 * values.mean(axis=0)
    cells = [f"{mean:.1f}" for mean in means]
    if len(values) > 1:
        spreads = 100 * values.std(axis=0, ddof=1)
        cells = [f"{c} ± {s:.1f}" for c, s in zip(cells, spreads, strict=True)]
    return ["-" if np.isnan(m) else c for m, c in zip(means, cells, strict=True)]


def _paired_lines(groups: Summaries, measure: Measure, baseline: str) -> list[str]:
    control = {run.seed: column(run, measure)[-1] for run in groups.get(baseline, [])}
    lines = []
    for name, runs in sorted(groups.items()):
        differences = [
            100 * (column(run, measure)[-1] - control[run.seed])
            for run in runs
            if run.seed in control
        ]
        gains = [gain for gain in differences if not np.isnan(gain)]
        if name != baseline and gains:
            each = ", ".join(f"{gain:+.1f}" for gain in gains)
            mean = sum(gains) / len(gains)
            what = f"{name} minus {baseline}, last cycle, seed by seed"
            lines.append(f"{what}: {each}; mean {mean:+.1f}.")
    return lines
