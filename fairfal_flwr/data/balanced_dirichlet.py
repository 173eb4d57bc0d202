"""Balanced Dirichlet: clients of equal size with classes of unequal share.

See method §2.2. In its order: proportions, rounding, quotas, deal. With seed 0 the
table of counts is that of the published experiments, entry for entry.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.errors import UserError
from fairfal_flwr.randomness import numpy_generator, torch_generator

__all__ = [
    "balanced_dirichlet",
    "check_enough_images",
    "client_sizes",
    "deal_by_proportions",
    "deal_in_equal_sizes",
    "proportions_of",
]

_PUBLISHED_SEED = 0
_NUM_ALTERNATIONS = 5
_SMALLEST_SUM = 1e-12
_SMALLEST_ALPHA, _LARGEST_ALPHA = 1e-300, 1e30
_SAMPLER_UNDERFLOWS_BELOW = 0.01

_Counts = npt.NDArray[np.int64]
_Proportions = npt.NDArray[np.floating]


def balanced_dirichlet(
    labels: npt.NDArray[np.int64],
    num_clients: int,
    alpha: float,
    seed: int,
    *,
    num_classes: int,
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.float32]]:
    """Deal all samples to clients of equal size by Dirichlet class proportions.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        int64 in ``range(num_classes)``. Not every class needs to occur.
    num_clients : int
        K, from 1 to N.
    alpha : float
        Dirichlet concentration, positive: towards 0 a client holds few classes,
        towards infinity all in equal shares.
    seed : int
        Of the proportions and of which samples go where. With 0 the proportions are
        those of the published experiments.
    num_classes : int
        C.

    Returns
    -------
    rows : list of ndarray
        Per client its rows of `labels`, int64, ascending. Each row has exactly one
        owner; a client has N // K rows, the first N % K clients one more.
    proportions : ndarray, shape (num_clients, num_classes)
        float32: which part of each class was meant for each client, before the sizes
        were made equal. Columns sum to 1; that of a class that no client drew, to less.

    Raises
    ------
    UserError
        If there are more clients than samples, or no client.
    """
    check_enough_images(len(labels), num_clients)
    proportions = _balanced_proportions(
        num_clients, num_classes, alpha, _proportions_generator(seed)
    )
    generator = numpy_generator(seed, "partition")
    return deal_in_equal_sizes(labels, proportions, generator), proportions


def check_enough_images(num_samples: int, num_clients: int) -> None:
    """Raise unless there is a client, and each can get an image.

    Raises
    ------
    UserError
        If not.
    """
    if not 1 <= num_clients <= num_samples:
        raise UserError(
            f"`num-clients` is {num_clients}; allowed: 1 to {num_samples}, the number "
            "of training images."
        )


def client_sizes(num_samples: int, num_clients: int) -> _Counts:
    """Return equal sizes; the first N % K clients have one more.

    Examples
    --------
    >>> client_sizes(11, 3).tolist()
    [4, 4, 3]
    """
    sizes = np.full(num_clients, num_samples // num_clients)
    sizes[: num_samples % num_clients] += 1
    return sizes


def proportions_of(counts: _Counts) -> npt.NDArray[np.float64]:
    """Return which part of each class each client has.

    Parameters
    ----------
    counts : ndarray, shape (num_clients, num_classes)
        Samples of each class that each client has.

    Returns
    -------
    ndarray, same shape
        Columns sum to 1; a class that nobody has belongs to all in equal parts.
    """
    sizes = counts.sum(axis=0)
    return np.where(sizes > 0, counts / np.maximum(sizes, 1), 1 / len(counts))


def deal_in_equal_sizes(
    labels: npt.NDArray[np.int64],
    proportions: _Proportions,
    generator: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Deal samples to clients of equal size, as near to the proportions as that allows.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        int64 in ``range(num_classes)``.
    proportions : ndarray, shape (num_clients, num_classes)
        As `balanced_dirichlet` returns them.
    generator : numpy.random.Generator
        Decides which samples of a class go where; how many do not depend on it.

    Returns
    -------
    list of ndarray
        Per client its rows, int64, ascending. Each row has exactly one owner; a client
        has N // K, the first N % K clients one more.
    """
    quotas = client_sizes(len(labels), len(proportions))
    counts = _meet_quotas(_rounded(proportions, labels), quotas)
    return _deal(labels, counts, generator)


def deal_by_proportions(
    labels: npt.NDArray[np.int64],
    proportions: _Proportions,
    generator: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Deal samples to clients class by class, without any quota per client.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        int64 in ``range(num_classes)``.
    proportions : ndarray, shape (num_clients, num_classes)
        As `proportions_of` returns them; columns sum to 1.
    generator : numpy.random.Generator
        Decides which samples of a class go where.

    Returns
    -------
    list of ndarray
        Per client its rows, int64, ascending. Each row has exactly one owner; a client
        may have none.
    """
    return _deal(labels, _rounded(proportions, labels), generator)


def _proportions_generator(seed: int) -> torch.Generator:
    """Return the published experiments' stream for their seed, else one of our own."""
    if seed == _PUBLISHED_SEED:
        return torch.Generator().manual_seed(_PUBLISHED_SEED)
    return torch_generator(seed, "partition")


def _balanced_proportions(
    num_clients: int, num_classes: int, alpha: float, generator: torch.Generator
) -> npt.NDArray[np.float32]:
    """Draw K Dirichlet vectors; make rows, then columns sum to 1, five times."""
    draws = [_dirichlet(num_classes, alpha, generator) for _ in range(num_clients)]
    table = torch.stack(draws)
    for _ in range(_NUM_ALTERNATIONS):
        table = table / (table.sum(dim=1, keepdim=True) + _SMALLEST_SUM)
        table = table / (table.sum(dim=0, keepdim=True) + _SMALLEST_SUM)
    proportions: npt.NDArray[np.float32] = table.numpy()
    return proportions


def _dirichlet(num_classes: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Draw one vector of Dirichlet(alpha), float32.

    Where alpha is so small that all of PyTorch's gamma variates may be 0, they are
    drawn as logarithms: Gamma(a) is Gamma(a + 1) * U ** (1 / a), and -log U is
    exponential.
    """
    alpha = min(max(alpha, _SMALLEST_ALPHA), _LARGEST_ALPHA)
    if alpha >= _SAMPLER_UNDERFLOWS_BELOW:
        alphas = torch.full((num_classes,), alpha, dtype=torch.float32)
        return torch._sample_dirichlet(alphas, generator)
    alphas = torch.full((num_classes,), alpha, dtype=torch.float64)
    logs = torch._standard_gamma(alphas + 1, generator).log()
    logs -= torch.empty_like(logs).exponential_(generator=generator) / alpha
    return logs.softmax(dim=0).float()


def _rounded(proportions: _Proportions, labels: npt.NDArray[np.int64]) -> _Counts:
    """Return how many samples of each class each client is meant to get."""
    sizes = np.bincount(labels, minlength=proportions.shape[1])
    return _largest_remainder(proportions * sizes.astype(proportions.dtype), sizes)


def _largest_remainder(shares: _Proportions, sizes: _Counts) -> _Counts:
    """Round each column of shares to whole numbers with the sum in `sizes`.

    Every share is rounded down; what is left of a column goes one each to its largest
    remainders (ties: lower row first), and round again where all have got one, as in
    the column of a class that no client drew.
    """
    floors = np.floor(shares)
    left = sizes - floors.sum(axis=0, dtype=np.int64)
    order = np.argsort(floors - shares, axis=0, kind="stable")
    rank = np.argsort(order, axis=0)
    each, rest = np.divmod(left, len(shares))
    whole: _Counts = floors.astype(np.int64) + each + (rank < rest)
    return whole


def _meet_quotas(counts: _Counts, quotas: _Counts) -> _Counts:
    """Move samples, class by class, from clients over their quota to those under it.

    In each class a client gives what it has too much. Those that lack take it, each
    all that it lacks, in the order of what they lacked before anything moved, most
    first (ties: lower client first). One pass suffices: a client's excess is at most
    its samples of all classes, and those under quota lack all that is given; so it
    makes no difference who takes from whom.

    Parameters
    ----------
    counts : ndarray, shape (num_clients, num_classes)
        Samples of each class that each client has.
    quotas : ndarray, shape (num_clients,)
        Samples that each client shall have; the sums are equal.
    """
    counts = counts.copy()
    order = np.argsort(counts.sum(axis=1) - quotas, kind="stable")
    for column in counts.T:  # a view: the class's count at each client
        lacking = quotas - counts.sum(axis=1)
        given = np.minimum(np.maximum(-lacking, 0), column)
        wanted = np.maximum(lacking, 0)[order]
        taken_before = np.cumsum(wanted) - wanted
        column[order] += np.clip(given.sum() - taken_before, 0, wanted)
        column -= given
    return counts


def _deal(
    labels: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Hand out shuffled samples of each class by a (clients, classes) table."""
    num_clients, num_classes = counts.shape
    owners = np.empty(len(labels), dtype=np.int64)
    for label in range(num_classes):
        rows = generator.permutation(np.flatnonzero(labels == label))
        owners[rows] = np.repeat(np.arange(num_clients), counts[:, label])
    by_owner = np.argsort(owners, kind="stable")
    return np.split(by_owner, np.cumsum(counts.sum(axis=1))[:-1])
