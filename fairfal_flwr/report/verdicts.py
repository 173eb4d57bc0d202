"""What comparisons mean, in plain words."""

from collections.abc import Sequence

from fairfal_flwr.report.compare import p_value
from fairfal_flwr.report.pairs import Comparison
from fairfal_flwr.report.statistics import ALPHA

__all__ = ["verdict", "verdicts"]


def verdicts(comparisons: Sequence[Comparison], baseline: str) -> list[str]:
    """Return a sentence for each comparison, those that the baseline wins first."""
    order = sorted(comparisons, key=lambda each: not _wins(each, -1))
    return [verdict(each, baseline) for each in order]


def verdict(comparison: Comparison, baseline: str) -> str:
    """Say who wins, or that nothing is shown."""
    name, outcome = comparison.name, comparison.outcome
    shift, pairs = comparison.effect.shift, comparison.effect.pairs
    size = f"{abs(shift.estimate):.{outcome.decimals}f} {outcome.unit}"
    sign = shift.estimate if outcome.more_is_better else -shift.estimate
    ahead, behind = (name, baseline) if sign > 0 else (baseline, name)
    if _wins(comparison, 1) or _wins(comparison, -1):
        return (
            f"{_capital(ahead)} wins against {behind} by {size} in {outcome.name} "
            f"({pairs} pairs, corrected p = {p_value(comparison.corrected)})."
        )
    lead = f"{ahead} is ahead by {size}" if sign else "they are even"
    if not comparison.effect.different:
        return (
            f"{_capital(name)} and {baseline} do not differ in {outcome.name} at all."
        )
    if not comparison.effect.is_decidable:
        return (
            f"Too few pairs to tell {name} from {baseline} in {outcome.name}: {lead} "
            f"over {pairs} pair{'s' * (pairs > 1)}, which may be noise."
        )
    return (
        f"No difference between {name} and {baseline} is shown in {outcome.name}: "
        f"{lead} over {pairs} pairs, corrected p = {p_value(comparison.corrected)}."
    )


def _wins(comparison: Comparison, direction: int) -> bool:
    """Tell whether the strategy (1) or the baseline (-1) is shown to be better."""
    sign = direction if comparison.outcome.more_is_better else -direction
    is_shown = comparison.corrected < ALPHA
    return is_shown and sign * comparison.effect.shift.estimate > 0


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
