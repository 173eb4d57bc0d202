"""How far each client moved the weights, and who moved them suspiciously far."""

from collections.abc import Iterable, Mapping
from math import sqrt
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["JUDGES", "excess", "norm"]

JUDGES = 3  # of fewer replies nobody can tell which one is odd


def norm(parts: Iterable[NDArray[Any]]) -> float:
    """Return the L2 norm of some arrays taken together, in double precision.

    Examples
    --------
    >>> norm([np.array([3.0]), np.array([[0.0, 4.0]])])
    5.0
    """
    flat = (part.astype(np.float64).ravel() for part in parts)
    return sqrt(sum(float(part @ part) for part in flat))


def excess(norms: Mapping[int, float], most: float) -> dict[int, float]:
    r"""Return whose norm is too large beside the others', as multiples of the median.

    .. math::
        \{k : \lVert d_k \rVert > m \cdot \mathrm{median}_j \lVert d_j \rVert\}

    with d_k what client k added to the weights that it was sent.

    Parameters
    ----------
    norms : Mapping of int to float
        By client, finite, at least 0.
    most : float
        m, above 0.

    Returns
    -------
    dict of int to float
        Empty for fewer than three clients, and where half of them moved nothing.

    Examples
    --------
    >>> excess({0: 1.0, 1: 2.0, 2: 40.0}, 10)
    {2: 20.0}
    """
    middle = median(norms.values()) if len(norms) >= JUDGES else 0.0
    if not middle:
        return {}
    return {k: value / middle for k, value in norms.items() if value > most * middle}
