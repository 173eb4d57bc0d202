"""What noisy releases cost: (ε, δ) of Gaussian mechanisms one after the other."""

import math

import torch

__all__ = ["gaussian_delta", "gaussian_epsilon"]


def gaussian_delta(epsilon: float, ratio: float) -> float:
    r"""Return the smallest δ of a Gaussian mechanism at an ε.

    δ(ε) = Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ), with μ the sensitivity over the noise's
    standard deviation: Balle and Wang, Improving the Gaussian Mechanism for
    Differential Privacy, ICML 2018, arXiv 1805.06530, Theorem 8. k releases with μ each
    are one with μ√k, exactly (Dong, Roth and Su, Gaussian Differential Privacy,
    arXiv 1905.02383), also where each depends on those before.

    Parameters
    ----------
    epsilon : float
        ε >= 0.
    ratio : float
        μ > 0.
    """
    near = _log_normal(ratio / 2 - epsilon / ratio)
    far = _log_normal(-ratio / 2 - epsilon / ratio)
    return math.exp(near) - math.exp(epsilon + far)


def gaussian_epsilon(delta: float, ratio: float) -> float:
    """Return the smallest ε of a Gaussian mechanism at a δ: see `gaussian_delta`.

    Examples
    --------
    >>> round(gaussian_epsilon(1e-5, 1.0), 2)
    4.38
    """
    if gaussian_delta(0.0, ratio) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, ratio) > delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (
            (middle, high) if gaussian_delta(middle, ratio) > delta else (low, middle)
        )
    return high


def _log_normal(value: float) -> float:
    """Return log Φ(value), which does not underflow."""
    return float(torch.special.log_ndtr(torch.tensor(value, dtype=torch.float64)))
