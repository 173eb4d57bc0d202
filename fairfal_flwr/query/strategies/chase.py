"""CHASe: samples whose prediction kept changing while the client trained.

CHASe: Client Heterogeneity-Aware Data Selection for Effective Federated Active Learning
    Jun Zhang, Jue Wang, Huan Li, Zhongle Xie, Ke Chen and Lidan Shou. IEEE Transactions
    on Knowledge and Data Engineering, 2025.

Epistemic variation ranks the pool, samples that never vary are put to sleep, and some
are woken when the pool runs dry.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Generator, Tensor

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.measures import entropies, scaled
from fairfal_flwr.query.memory import DORMANT, PredictionChanges
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up, top

__all__ = ["awaken", "chase", "freeze"]


def _models(*, score: str, **_: Any) -> tuple[Model, ...]:
    return ("global", "local-last") if score == "variation-entropy" else ()


@strategy(
    "chase", models=_models, remembers={DORMANT: None, "changes": PredictionChanges}
)
def chase(
    context: QueryContext,
    budget: int,
    *,
    score: Literal["variation", "variation-entropy"] = "variation",
    subset: Annotated[int, Range(ge=1)] = 500,
    awaken_ratio: Annotated[float, Range(ge=0, le=1)] = 0.4,
    awaken_factor: Annotated[float, Range(ge=0)] = 3.0,
) -> Selection:
    """Take the samples of the largest epistemic variation among those awake.

    Parameters
    ----------
    context : QueryContext
        Needs `changes` in its memory; `dormant` there is who sleeps, nobody by default.
    budget : int
        Samples to choose.
    score : {"variation", "variation-entropy"}
        What ranks the samples: `variation` is how often the prediction changed between
        the epochs of the last round (EV); `variation-entropy` adds the entropy of the
        global model minus that of the client's own (`Tloc-ab`). Both are scaled to
        [0, 1] over the samples that are looked at.
    subset : int
        Most samples awake that are looked at, drawn at random; never fewer than the
        budget.
    awaken_ratio : float
        Fraction of the dormant samples that wakes at once.
    awaken_factor : float
        Dormant samples wake where at most this many times the budget are awake.

    Returns
    -------
    Selection
        Its memory says who is dormant; the notes count them.

    Notes
    -----
    Equal variations are ordered at random: an integer from 0 to the number of epochs
    has many ties, and the order of the pool should not decide.

    Raises
    ------
    ValueError
        If the prediction changes are missing.
    """
    changes = context.remembered("changes")
    asleep = context.memory.get(DORMANT, torch.zeros_like(changes)) != 0
    asleep = awaken(
        asleep,
        budget,
        ratio=awaken_ratio,
        factor=awaken_factor,
        generator=context.generator,
    )
    order = torch.randperm(len(changes), generator=context.generator).to(changes.device)
    awake = order[~asleep[order]][: max(subset, budget)]
    looked_at = fill_up(awake, order, max(len(awake), budget))  # sleepers, if need be
    scores = changes[looked_at].float()
    if score == "variation-entropy":
        gaps = entropies(context.outputs("global", "pool").probs) - entropies(
            context.outputs("local-last", "pool").probs
        )
        scores = scaled(scores) + scaled(gaps[looked_at])
    ranks = top(scores, budget)
    chosen = looked_at[ranks]
    dormant = freeze(asleep, changes, looked_at, chosen)
    return Selection(
        chosen,
        scores=scores[ranks],
        notes={DORMANT: float(dormant.sum())},
        memory={DORMANT: dormant.long()},
    )


def awaken(
    dormant: Tensor,
    budget: int,
    *,
    ratio: float,
    factor: float,
    generator: Generator,
) -> Tensor:
    """Return who sleeps on: where few are awake, some of the dormant return.

    Parameters
    ----------
    dormant : Tensor, shape (N,), bool
        Who sleeps.
    budget : int
        b.
    ratio : float
        The fraction of the dormant that wakes, drawn at random, in [0, 1].
    factor : float
        They wake where at most `factor` · b are awake.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (N,), bool
        A new tensor.
    """
    sleepers = dormant.nonzero().flatten()
    if len(dormant) - len(sleepers) > factor * budget:
        return dormant.clone()
    drawn = torch.randperm(len(sleepers), generator=generator).to(sleepers.device)
    woken = sleepers[drawn[: int(ratio * len(sleepers))]]
    return dormant.index_fill(0, woken, value=False)


def freeze(
    dormant: Tensor, changes: Tensor, looked_at: Tensor, chosen: Tensor
) -> Tensor:
    """Put to sleep what was looked at, never varied and was not chosen.

    Parameters
    ----------
    dormant : Tensor, shape (N,), bool
        Who sleeps already.
    changes : Tensor, shape (N,), int64
        EV, the epistemic variation.
    looked_at, chosen : Tensor, int64
        Positions in the pool.

    Returns
    -------
    Tensor, shape (N,), bool
        A new tensor; False for what was chosen.
    """
    still = looked_at[changes[looked_at] == 0]
    return dormant.index_fill(0, still, value=True).index_fill(0, chosen, value=False)
