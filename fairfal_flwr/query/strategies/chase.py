"""CHASe: samples whose prediction kept changing while the client trained.

CHASe: Client Heterogeneity-Aware Data Selection for Effective Federated Active Learning
    Jun Zhang, Jue Wang, Huan Li, Zhongle Xie, Ke Chen and Lidan Shou. IEEE Transactions
    on Knowledge and Data Engineering, 2025.

Epistemic variation ranks the pool, samples that never vary are put to sleep, and some
are woken when the pool runs dry.
"""

from typing import Any, Literal

import torch
from torch import Generator, Tensor

from fairfal_flwr.query.context import Model, QueryContext, Selection
from fairfal_flwr.query.measures import entropies
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up, top

__all__ = ["awaken", "chase", "freeze"]


def _models(*, score: str, **_: Any) -> tuple[Model, ...]:
    return ("global", "local-last") if score == "variation-entropy" else ()


@strategy("chase", models=_models, needs_imbalance=False, needs_changes=True)
def chase(
    context: QueryContext,
    budget: int,
    *,
    score: Literal["variation", "variation-entropy"] = "variation",
    subset: int = 500,
    awaken_ratio: float = 0.4,
    awaken_factor: float = 3.0,
) -> Selection:
    """Take the samples of the largest epistemic variation among those awake.

    Parameters
    ----------
    context : QueryContext
        Needs `prediction_changes`; `dormant` is what the last selection returned.
    budget : int
        Samples to choose.
    score : {"variation", "variation-entropy"}
        EV, or EV plus the entropy of the global model minus that of "local-last",
        scaled to [0, 1] (the variant `Tloc-ab`).
    subset : int, default 500
        At most so many samples awake are looked at, drawn at random; never fewer than
        the budget.
    awaken_ratio, awaken_factor : float, defaults 0.4 and 3
        See `awaken`.

    Returns
    -------
    Selection
        `dormant` is the memory to hand in at the next query; the notes count it.

    Notes
    -----
    Equal variations are ordered at random: an integer from 0 to the number of epochs
    has many ties, and the order of the pool should not decide.

    Raises
    ------
    ValueError
        If the prediction changes are missing.
    """
    changes = context.prediction_changes
    if changes is None:
        raise ValueError(
            "CHASe needs how often the local model's predictions changed in the last "
            "round: give the context `prediction_changes`."
        )
    asleep = context.dormant
    if asleep is None:
        asleep = torch.zeros_like(changes, dtype=torch.bool)
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
    scores = changes.float()
    if score == "variation-entropy":
        scores = scores + _scaled(
            entropies(context.outputs("global", "pool").probs)
            - entropies(context.outputs("local-last", "pool").probs)
        )
    chosen = looked_at[top(scores[looked_at], budget)]
    dormant = freeze(asleep, changes, looked_at, chosen)
    return Selection(chosen, notes={"dormant": float(dormant.sum())}, dormant=dormant)


def awaken(
    dormant: Tensor,
    budget: int,
    *,
    ratio: float = 0.4,
    factor: float = 3.0,
    generator: Generator,
) -> Tensor:
    """Return who sleeps on: where few are awake, some of the dormant return.

    Parameters
    ----------
    dormant : Tensor, shape (N,), bool
        Who sleeps.
    budget : int
        b.
    ratio : float, default 0.4
        The fraction of the dormant that wakes, drawn at random, in [0, 1].
    factor : float, default 3
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


def _scaled(values: Tensor) -> Tensor:
    """Scale to [0, 1]; equal values are all 0."""
    values = values - values.min()
    return values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
