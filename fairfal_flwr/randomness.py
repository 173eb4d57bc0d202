"""Every random stream of a campaign, derived from what it is for.

A stream depends on (seed, purpose, cycle, round, partition) and never on the order of
execution: one worker or ten, the run is the same.
"""

import hashlib

import numpy as np
import torch

__all__ = ["derive_seed", "numpy_generator", "torch_generator"]


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for one purpose.

    Parameters
    ----------
    seed : int
        The campaign's seed.
    purpose : str
        What the numbers are for, such as ``"shuffle"``.
    *indices : int
        Cycle, round, partition, or whatever tells two streams of one purpose apart.

    Examples
    --------
    >>> derive_seed(0, "shuffle", 1, 2) == derive_seed(0, "shuffle", 1, 2)
    True
    >>> derive_seed(0, "shuffle", 1, 2) == derive_seed(0, "shuffle", 2, 1)
    False
    """
    name = "/".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *indices))


def numpy_generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return a NumPy generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, purpose, *indices))
