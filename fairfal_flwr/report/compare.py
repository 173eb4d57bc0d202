"""Strategies side by side, from the summaries of their runs."""

from collections.abc import Sequence

import numpy as np

from fairfal_flwr.errors import UserError
from fairfal_flwr.report.groups import Groups
from fairfal_flwr.report.learning_curve import MEASURES, column
from fairfal_flwr.report.pairs import (
    Comparison,
    Outcome,
    compare_with,
    outcomes,
    ranking,
)
from fairfal_flwr.report.statistics import ALPHA, smallest_p_value
from fairfal_flwr.report.tables import Table

__all__ = [
    "BASELINE",
    "HOW_PAIRED",
    "comparison",
    "doubts",
    "mean_tables",
    "p_value",
    "paired_table",
]

BASELINE = "random"
HOW_PAIRED = (
    "Pairs have the same seed and partition. Differences in percentage points or "
    "labels: the Hodges-Lehmann estimate with its exact 95 % interval. p: Wilcoxon's "
    "signed-rank test, two-sided; corrected by Holm over the strategies of a measure."
)


def comparison(groups: Groups, baseline: str = "", target: float | None = None) -> str:
    """Return Markdown tables of each measure by strategy and cycle, and of their pairs.

    Entries are the mean over the runs and, after ±, their standard deviation (n - 1),
    in percent. Groups that share seeds and partitions with the baseline are also
    compared with it, pair by pair.

    Parameters
    ----------
    groups : Groups
        As of `read_groups`.
    baseline : str, optional
        The name of one of them; `random` where it is left out, if that is there.
    target : float, optional
        The accuracy, a fraction, whose labels are compared; see `outcomes`.

    Raises
    ------
    UserError
        If the runs label different shares of the images, or the baseline is none of
        the groups.
    """
    runs = groups.runs
    groups.check_baseline(baseline)
    lines = []
    for table in mean_tables(groups):
        lines += [*table.markdown(), ""]
    measures = outcomes(groups.summaries, target)
    if (against := baseline or BASELINE) in runs:
        lines += _paired_lines(groups, against, measures)
    lines += _ranking_lines(groups, measures[0])
    return "\n".join(lines).rstrip() + "\n"


def mean_tables(groups: Groups) -> list[Table]:
    """Return a table of each measure by strategy and cycle.

    Raises
    ------
    UserError
        If the runs label different shares of the images.
    """
    shares = [f"{share:.0%}" for share in _shares(groups)]
    return [
        Table(
            [f"{title} at", "runs", *shares],
            [
                [name, str(len(runs)), *_cells([column(run, measure) for run in runs])]
                for name, runs in sorted(groups.runs.items())
            ],
        )
        for title, measure in MEASURES.items()
    ]


def paired_table(comparisons: Sequence[Comparison], baseline: str) -> Table:
    """Return a table of comparisons."""
    heads = [f"minus {baseline}", "measure", "pairs", "better in"]
    heads += ["difference (95 % interval)", "p", "p, corrected"]
    rows = [
        [
            *(each.name, each.outcome.name, str(each.effect.pairs), str(each.better)),
            *(_shift(each), p_value(each.effect.p_value), p_value(each.corrected)),
        ]
        for each in comparisons
    ]
    return Table(heads, rows, words=2)


def doubts(
    groups: Groups, comparisons: Sequence[Comparison], baseline: str
) -> list[str]:
    """Say what the comparisons cannot tell, in one sentence each."""
    said = []
    compared = {each.name for each in comparisons}
    if lonely := sorted(groups.finished.keys() - compared - {baseline}):
        said.append(
            f"Not compared with {baseline}, which has no run with the same seed and "
            f"partition: {'; '.join(lonely)}."
        )
    unknown = [each for each in comparisons if each.unknown]
    said += [
        f"{each.name}, {each.outcome.name}: {each.unknown} pair(s) left out, since one "
        "of the two has no such number."
        for each in unknown
    ]
    undecidable = [
        each
        for each in comparisons
        if each.effect.different and not each.effect.is_decidable
    ]
    if undecidable:
        fewest = min(each.effect.different for each in undecidable)
        said.append(
            f"Too few pairs that differ: {len(undecidable)} of these "
            f"{len(comparisons)} tests, with as few as {fewest} such pair(s), cannot "
            "reach p < 0.05, whatever the strategies do; 6 is the least. Take what "
            "they show for noise until there are more seeds."
        )
    if doubt := _doubt_of_correction(comparisons):
        said.append(doubt)
    return said


def _doubt_of_correction(comparisons: Sequence[Comparison]) -> str:
    """Say when pairs suffice for one test, but not for so many."""
    names = {each.name for each in comparisons}
    pairs = max((each.effect.different for each in comparisons), default=0)
    least = min(1.0, len(names) * smallest_p_value(pairs))
    if smallest_p_value(pairs) >= ALPHA or least < ALPHA:
        return ""
    needed = next(
        n for n in range(pairs, 99) if len(names) * smallest_p_value(n) < ALPHA
    )
    return (
        f"With {len(names)} strategies and {pairs} pairs the least corrected p is "
        f"{p_value(least)} for the clearest of them; {needed} pairs could show one."
    )


def _shares(groups: Groups) -> tuple[float, ...]:
    """Return the share of labeled images after each cycle, the same for all runs."""
    shares = {
        tuple(row.label_fraction for row in run.cycles)
        for found in groups.runs.values()
        for run in found
    }
    if len(shares) != 1:
        raise UserError(
            "The runs cannot be compared: they differ in cycles or in the share of "
            f"labeled images ({len(shares)} kinds among them)."
        )
    return shares.pop()


def _cells(rows: Sequence[Sequence[float]]) -> list[str]:
    """Return mean and spread of each column of (runs, cycles); - for an unknown one."""
    values = np.array(rows)
    means = 100 * values.mean(axis=0)
    cells = [f"{mean:.1f}" for mean in means]
    if len(values) > 1:
        spreads = 100 * values.std(axis=0, ddof=1)
        cells = [f"{c} ± {s:.1f}" for c, s in zip(cells, spreads, strict=True)]
    return ["-" if np.isnan(m) else c for m, c in zip(means, cells, strict=True)]


def _paired_lines(
    groups: Groups, baseline: str, measures: Sequence[Outcome]
) -> list[str]:
    comparisons = compare_with(groups.finished, baseline, measures)
    lines = []
    if comparisons:
        lines += [*paired_table(comparisons, baseline).markdown(), "", HOW_PAIRED, ""]
    for doubt in doubts(groups, comparisons, baseline):
        lines += [doubt, ""]
    return lines


def _ranking_lines(groups: Groups, outcome: Outcome) -> list[str]:
    found = ranking(groups.finished, outcome)
    if found is None:
        return []
    each = ", ".join(
        f"{name} {rank:.2f}"
        for name, rank in sorted(found.ranks.items(), key=lambda item: item[1])
    )
    return [
        f"Mean ranks by {outcome.name} over {found.blocks} seeds and partitions: "
        f"{each}. Friedman p = {p_value(found.p_value)}; ranks less than "
        f"{found.critical_difference:.2f} apart are no different (Nemenyi, 0.05).",
        "",
    ]


def _shift(comparison: Comparison) -> str:
    outcome, shift = comparison.outcome, comparison.effect.shift
    places = outcome.decimals
    if np.isinf(shift.low):
        return f"{shift.estimate:+.{places}f} (too few)"
    return (
        f"{shift.estimate:+.{places}f} ({shift.low:+.{places}f} to "
        f"{shift.high:+.{places}f})"
    )


def p_value(value: float) -> str:
    """Return a p-value for people."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
