"""How unsure a prediction is: measures of class probabilities, sample by sample."""

import math

import torch
from torch import Tensor

__all__ = ["entropies", "margins", "normalized_entropies", "scaled"]


def margins(probs: Tensor) -> Tensor:
    """Return p_(1) − p_(2), the lead of the likeliest class over the second.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Class probabilities, C >= 2.

    Returns
    -------
    Tensor, shape (N,)
        In [0, 1].

    Examples
    --------
    >>> margins(torch.tensor([[0.5, 0.25, 0.25]]))
    tensor([0.2500])
    """
    first_two = probs.topk(2, dim=1).values
    return first_two[:, 0] - first_two[:, 1]


def entropies(probs: Tensor) -> Tensor:
    """Return H(p) = −Σ_c p_c log p_c in nats; 0 log 0 is 0.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Class probabilities.

    Returns
    -------
    Tensor, shape (N,)
        In [0, log C].

    Examples
    --------
    >>> entropies(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    result: Tensor = torch.special.entr(probs).sum(dim=1)
    return result


def normalized_entropies(probs: Tensor) -> Tensor:
    """Return H(p) / log C, the entropy as a fraction of its maximum (method §5.2).

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Class probabilities, C >= 2.

    Returns
    -------
    Tensor, shape (N,)
        In [0, 1].

    Examples
    --------
    >>> normalized_entropies(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0., 1.])
    """
    return entropies(probs) / math.log(probs.shape[1])


def scaled(values: Tensor) -> Tensor:
    """Return (v − min v) / (max v − min v).

    Parameters
    ----------
    values : Tensor, shape (N,)
        One measure of all samples, N >= 1.

    Returns
    -------
    Tensor, shape (N,)
        In [0, 1]; equal values are all 0.

    Examples
    --------
    >>> scaled(torch.tensor([3.0, 1.0, 2.0]))
    tensor([1.0000, 0.0000, 0.5000])
    """
    values = values - values.min()
    return values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
