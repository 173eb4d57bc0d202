"""KSAS: samples on which the server and the client disagree, class counts considered.

Knowledge-Aware Federated Active Learning with Non-IID Data
    Yu-Tong Cao, Ye Shi, Baosheng Yu, Jingya Wang and Dacheng Tao. ICCV 2023, arXiv
    2211.13579. The acquisition of KAFAL.
"""

from typing import Annotated

import torch
from torch import Tensor

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import take_top

__all__ = ["ksas", "specialized_discrepancy", "specialized_probs"]


@strategy("ksas", models=("global", "local-last"))
def ksas(
    context: QueryContext,
    budget: int,
    *,
    log_prior: Annotated[float, Range(ge=0)] = 1.0,
) -> Selection:
    """Take the samples of the largest knowledge-specialized discrepancy.

    Parameters
    ----------
    context : QueryContext
        Needs labels, and the outputs of "global" and "local-last" on the pool.
    budget : int
        Samples to choose.
    log_prior : float
        How much the client's class counts sharpen both predictions (λ).

    Notes
    -----
    A class without a label shifts a logit by −∞ and made every score NaN in the
    published code; here such a class contributes 0.

    Raises
    ------
    ValueError
        If every label is missing.
    """
    context.require_labels("KSAS")
    counts = context.labels.bincount(minlength=context.num_classes)
    server, client = (
        specialized_probs(outputs.probs, counts, log_prior=log_prior)
        for outputs in (
            context.outputs("global", "pool"),
            context.outputs("local-last", "pool"),
        )
    )
    return take_top(specialized_discrepancy(server, client), budget)


def specialized_probs(
    probs: Tensor, counts: Tensor, *, log_prior: float = 1.0
) -> Tensor:
    """Return softmax(z + λ log n), which is p n^λ / Σ p n^λ.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        p = softmax(z).
    counts : Tensor, shape (C,), int64
        n, the client's labeled samples by class, not all 0.
    log_prior : float
        λ.

    Returns
    -------
    Tensor, shape (N, C)
        0 where the class has no labeled sample.
    """
    prior = torch.where(counts > 0, counts.to(probs.dtype) ** log_prior, 0)
    # The smallest normal number keeps a prediction that is all on unseen classes.
    weighted = (probs * prior).clamp(min=torch.finfo(probs.dtype).tiny) * (counts > 0)
    return weighted / weighted.sum(dim=1, keepdim=True)


def specialized_discrepancy(server: Tensor, client: Tensor) -> Tensor:
    """Return ½ [KL(p' ‖ q') + KL(q' ‖ p')] = ½ Σ (p' − q') (log p' − log q').

    Parameters
    ----------
    server, client : Tensor, shape (N, C)
        p' and q', from `specialized_probs`.

    Returns
    -------
    Tensor, shape (N,)
        At least 0; a class that is 0 in both contributes 0.
    """
    tiny = torch.finfo(server.dtype).tiny
    log_ratio = server.clamp(min=tiny).log() - client.clamp(min=tiny).log()
    return 0.5 * ((server - client) * log_ratio).sum(dim=1)
