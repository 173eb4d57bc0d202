"""Strategies against a baseline, paired by seed and partition."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fairfal_flwr.report.groups import Finished
from fairfal_flwr.report.statistics import (
    Effect,
    Ranking,
    area_under_curve,
    corrected_p_values,
    labels_to_reach,
    paired_effect,
    rank_strategies,
)
from fairfal_flwr.runs.rows import Summary

__all__ = ["Comparison", "Members", "Outcome", "compare_with", "outcomes", "ranking"]

Members = Mapping[str, Sequence[Finished]]

FEWEST_RANKED = 3  # strategies; two are compared as a pair


@dataclass(frozen=True)
class Outcome:
    """One number that a run comes to.

    Parameters
    ----------
    name : str
        With its unit, where it is no difference.
    of : callable
        Returns it from a summary; nan where it is not known.
    more_is_better : bool
    unit : str
        Of a difference.
    decimals : int
        Worth showing.
    """

    name: str
    of: Callable[[Summary], float]
    more_is_better: bool = True
    unit: str = "points"
    decimals: int = 1


@dataclass(frozen=True)
class Comparison:
    """A strategy against the baseline in one outcome.

    Parameters
    ----------
    name : str
        The strategy.
    outcome : Outcome
        What is compared.
    effect : Effect
        Strategy minus baseline.
    better : int
        The pairs in which the strategy is the better one.
    unknown : int
        The pairs left out because one of the two has no such number.
    corrected : float
        The p-value, corrected over all strategies that were compared in this outcome.
    """

    name: str
    outcome: Outcome
    effect: Effect
    better: int
    unknown: int
    corrected: float = math.nan


def outcomes(runs: Sequence[Summary], target: float | None = None) -> list[Outcome]:
    """Return what runs are compared by.

    Parameters
    ----------
    runs : sequence of Summary
        All of them.
    target : float, optional
        The accuracy to reach, a fraction; left out, the highest that each run reaches.
    """
    found = [
        Outcome("AULC of test accuracy (%)", lambda run: 100 * _aulc(run)),
        Outcome("final test accuracy (%)", lambda run: 100 * run.cycles[-1].accuracy),
        Outcome("final macro recall (%)", lambda run: 100 * _macro_recall(run)),
        Outcome(
            "final recall, rarest third (%)",
            lambda run: 100 * run.cycles[-1].rare_recall,
        ),
    ]
    if target is None:
        target = min(map(_highest_accuracy, runs))
    if target == -math.inf:
        return found
    return [*found, _labels_until(target)]


def compare_with(
    groups: Members, baseline: str, measures: Sequence[Outcome]
) -> list[Comparison]:
    """Compare each group with the baseline in each measure, pair by pair.

    A pair has one seed and one partition; runs without a partner are not compared.

    Parameters
    ----------
    groups : Mapping of str to sequence of Finished
        The runs of each name.
    baseline : str
        One of them.
    measures : sequence of Outcome
        See `outcomes`.
    """
    found = []
    for outcome in measures:
        of_one = [
            comparison
            for name in sorted(groups)
            if name != baseline
            and (comparison := _compare(name, groups[name], groups[baseline], outcome))
        ]
        corrected = corrected_p_values([each.effect.p_value for each in of_one])
        found += [
            replace(each, corrected=value)
            for each, value in zip(of_one, corrected, strict=True)
        ]
    return found


def ranking(groups: Members, outcome: Outcome) -> Ranking | None:
    """Rank groups over the seeds and partitions that all of them were run on.

    Returns
    -------
    Ranking or None
        None for fewer than three groups, or fewer than two blocks.
    """
    sign = 1 if outcome.more_is_better else -1
    values = {
        name: {member.deal: sign * outcome.of(member.summary) for member in members}
        for name, members in groups.items()
    }
    shared = [
        deal
        for deal in next(iter(values.values()))
        if not any(math.isnan(of.get(deal, math.nan)) for of in values.values())
    ]
    if len(values) < FEWEST_RANKED or len(shared) < 2:
        return None
    return rank_strategies({n: [of[d] for d in shared] for n, of in values.items()})


def _compare(
    name: str,
    members: Sequence[Finished],
    control: Sequence[Finished],
    outcome: Outcome,
) -> Comparison | None:
    partners = {member.deal: outcome.of(member.summary) for member in control}
    differences = [
        outcome.of(member.summary) - partners[member.deal]
        for member in members
        if member.deal in partners
    ]
    known = [value for value in differences if not math.isnan(value)]
    if not known:
        return None
    sign = 1 if outcome.more_is_better else -1
    return Comparison(
        name,
        outcome,
        paired_effect(known),
        better=sum(sign * value > 0 for value in known),
        unknown=len(differences) - len(known),
    )


def _aulc(run: Summary) -> float:
    return area_under_curve(
        [row.label_fraction for row in run.cycles],
        [row.accuracy for row in run.cycles],
    )


def _macro_recall(run: Summary) -> float:
    known = [recall for recall in run.cycles[-1].recalls if not math.isnan(recall)]
    return float(np.mean(known)) if known else math.nan


def _highest_accuracy(run: Summary) -> float:
    known = [row.accuracy for row in run.cycles if not math.isnan(row.accuracy)]
    return max(known, default=-math.inf)


def _labels_until(target: float) -> Outcome:
    def needed(run: Summary) -> float:
        labels = [row.labels for row in run.cycles]
        return labels_to_reach(labels, [row.accuracy for row in run.cycles], target)

    return Outcome(
        f"labels to reach {target:.1%} test accuracy",
        needed,
        more_is_better=False,
        unit="labels",
        decimals=0,
    )
