"""From scores to positions: the selectors that strategies share."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fairfal_flwr.query.context import Selection

__all__ = ["fill_up", "rank_within", "take_top", "top"]


def top(scores: Tensor, budget: int) -> Tensor:
    """Return the positions of the largest scores, the largest first.

    Parameters
    ----------
    scores : Tensor, shape (N,)
        Of every pool sample; negate them to take the smallest.
    budget : int
        How many.

    Returns
    -------
    Tensor, shape (min(budget, N),), int64
        Of equal scores the lower position first.

    Examples
    --------
    >>> top(torch.tensor([0.5, 0.9, 0.5]), 2)
    tensor([1, 0])
    """
    return scores.argsort(descending=True, stable=True)[:budget]


def take_top(
    scores: Tensor, budget: int, *, notes: Mapping[str, float] | None = None
) -> Selection:
    """Select what `top` returns, with the scores for a reason.

    Examples
    --------
    >>> take_top(torch.tensor([0.5, 0.9, 0.5]), 2).scores
    tensor([0.9000, 0.5000])
    """
    positions = top(scores, budget)
    return Selection(positions, scores=scores[positions], notes=notes or {})


def fill_up(chosen: Tensor, ranking: Tensor, budget: int) -> Tensor:
    """Append what is not chosen yet, in the order of a ranking, up to the budget.

    Parameters
    ----------
    chosen : Tensor, shape (n,), int64
        Distinct positions; a surplus over the budget is dropped.
    ranking : Tensor, shape (m,), int64
        Distinct positions, the most wanted first.
    budget : int
        How many positions to return.

    Returns
    -------
    Tensor, shape (min(budget, distinct positions),), int64

    Examples
    --------
    >>> fill_up(torch.tensor([4]), torch.tensor([4, 2, 0]), 2)
    tensor([4, 2])
    """
    others = ranking[~torch.isin(ranking, chosen)]
    return torch.cat([chosen, others])[:budget]


def rank_within(groups: Tensor, scores: Tensor) -> Tensor:
    """Return each sample's rank, from 0, among the scores of its group.

    Parameters
    ----------
    groups : Tensor, shape (N,), int64
        Groups, at least 0.
    scores : Tensor, shape (N,)
        The largest of a group has rank 0; of equals the lower position is first.

    Returns
    -------
    Tensor, shape (N,), int64

    Examples
    --------
    >>> rank_within(torch.tensor([0, 1, 0, 0]), torch.tensor([0.1, 0.2, 0.9, 0.1]))
    tensor([1, 0, 0, 2])
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[groups[by_score].argsort(stable=True)]
    sizes = groups.bincount()
    starts = (sizes.cumsum(0) - sizes)[groups[order]]
    ranks = torch.empty_like(groups)
    ranks[order] = torch.arange(len(groups), device=groups.device) - starts
    return ranks
