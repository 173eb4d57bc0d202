"""How a budget is divided among classes (method §5.1)."""

import torch
from torch import Tensor

__all__ = ["class_quotas"]


def class_quotas(pool_sizes: Tensor, budget: int) -> Tensor:
    """Divide a budget among classes as evenly as their pools allow.

    Every class gets b // C; the remainder goes one each to the largest pools. What a
    pool cannot hold is given back and dealt one by one, round-robin, to the classes
    that still have room, largest pool first. Of equal pools the lower class is first.

    Parameters
    ----------
    pool_sizes : Tensor, shape (C,), int64
        Unlabeled samples that are pseudo-labeled as each class.
    budget : int
        b, at most the sum of `pool_sizes`.

    Returns
    -------
    Tensor, shape (C,), int64
        Sums to `budget`; no entry exceeds its pool.

    Raises
    ------
    ValueError
        If the budget is larger than the pools together.

    Examples
    --------
    >>> class_quotas(torch.tensor([10, 1, 5]), budget=8)
    tensor([4, 1, 3])
    """
    if budget > int(pool_sizes.sum()):
        raise ValueError(
            f"Expected a budget of at most {int(pool_sizes.sum())}, got {budget}."
        )
    num_classes = len(pool_sizes)
    by_size = pool_sizes.argsort(descending=True, stable=True)
    quotas = torch.full_like(pool_sizes, budget // num_classes)
    quotas[by_size[: budget % num_classes]] += 1
    quotas = quotas.minimum(pool_sizes)
    while (excess := budget - int(quotas.sum())) > 0:
        with_room = by_size[(pool_sizes > quotas)[by_size]]
        quotas[with_room[:excess]] += 1
    return quotas
