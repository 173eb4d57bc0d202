"""Otsu's threshold: split values where two groups are farthest apart.

A Threshold Selection Method from Gray-Level Histograms
    Nobuyuki Otsu. IEEE Transactions on Systems, Man, and Cybernetics, 1979.
"""

import torch
from torch import Tensor

__all__ = ["otsu_threshold"]


def otsu_threshold(values: Tensor, *, num_bins: int = 256) -> float:
    """Return the threshold of the largest variance between the two groups.

    w₀ w₁ (μ₀ − μ₁)², w the sizes and μ the means of the groups, over a histogram
    between the smallest and the largest value; of equals the lowest.

    Parameters
    ----------
    values : Tensor, shape (N,)
        At least one; finite.
    num_bins : int, default 256
        Bins of the histogram.

    Returns
    -------
    float
        The center of a bin: values above it are the upper group. Equal values are
        their own threshold.

    Examples
    --------
    >>> otsu_threshold(torch.tensor([0.0, 1.0, 1.0, 9.0, 10.0]), num_bins=10)
    1.5
    """
    low, high = values.min(), values.max()
    if low == high:
        return float(low)
    width = (high - low) / num_bins
    bins = ((values - low) / width).long().clamp(max=num_bins - 1)
    counts = bins.bincount(minlength=num_bins).float()
    centers = low + width * (torch.arange(num_bins, device=values.device) + 0.5)
    size, total = counts.cumsum(0), (counts * centers).cumsum(0)
    lower = total / size
    upper = (total[-1] - total) / (size[-1] - size).clamp(min=1)
    between = size * (size[-1] - size) * (lower - upper).square()
    return float(centers[between[:-1].argmax()])
