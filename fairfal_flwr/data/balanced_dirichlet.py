"""Balanced Dirichlet: clients of equal size with classes of unequal share.

See method §2. In the order of the method: proportions, rounding, quotas, deal.
"""

import numpy as np
import numpy.typing as npt

from fairfal_flwr.errors import UserError

__all__ = [
    "balanced_dirichlet",
    "client_sizes",
    "deal_by_proportions",
    "proportions_of",
]

_NUM_ALTERNATIONS = 5
_SMALLEST_ALPHA, _LARGEST_ALPHA = 1e-300, 1e300


def balanced_dirichlet(
    labels: npt.NDArray[np.int64],
    num_clients: int,
    alpha: float,
    generator: np.random.Generator,
    *,
    num_classes: int,
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.float64]]:
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
    generator : numpy.random.Generator
        The only source of randomness.
    num_classes : int
        C.

    Returns
    -------
    rows : list of ndarray
        Per client its rows of `labels`, int64, ascending. Each row has exactly one
        owner; a client has N // K rows, the first N % K clients one more.
    proportions : ndarray, shape (num_clients, num_classes)
        Which part of each class was meant for each client, before the sizes were made
        equal. Columns sum to 1.

    Raises
    ------
    UserError
        If there are more clients than samples, or no client.
    """
    num_samples = len(labels)
    if not 1 <= num_clients <= num_samples:
        raise UserError(
            f"`num-clients` is {num_clients}; allowed: 1 to {num_samples}, the number "
            "of training images."
        )
    proportions = _balanced_proportions(num_clients, num_classes, alpha, generator)
    class_sizes = np.bincount(labels, minlength=num_classes)
    quotas = client_sizes(num_samples, num_clients)
    counts = _meet_quotas(_largest_remainder(proportions * class_sizes), quotas)
    return _deal(labels, counts, generator), proportions


def client_sizes(num_samples: int, num_clients: int) -> npt.NDArray[np.int64]:
    """Return equal sizes; the first N % K clients have one more.

    Examples
    --------
    >>> client_sizes(11, 3).tolist()
    [4, 4, 3]
    """
    sizes = np.full(num_clients, num_samples // num_clients)
    sizes[: num_samples % num_clients] += 1
    return sizes


def proportions_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
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


def deal_by_proportions(
    labels: npt.NDArray[np.int64],
    proportions: npt.NDArray[np.float64],
    generator: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Deal samples to clients class by class, without any quota per client.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        int64 in ``range(num_classes)``.
    proportions : ndarray, shape (num_clients, num_classes)
        As `balanced_dirichlet` returns them; columns sum to 1.
    generator : numpy.random.Generator
        Decides which samples of a class go where.

    Returns
    -------
    list of ndarray
        Per client its rows, int64, ascending. Each row has exactly one owner; a client
        may have none.
    """
    class_sizes = np.bincount(labels, minlength=proportions.shape[1])
    return _deal(labels, _largest_remainder(proportions * class_sizes), generator)


def _balanced_proportions(
    num_clients: int, num_classes: int, alpha: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw K Dirichlet vectors; make rows, then columns sum to 1, five times.

    All of it happens on logarithms: with a small alpha most entries of a Dirichlet
    vector are smaller than any floating-point number, and a class that no client
    favors would have nothing to normalize.
    """
    alpha = min(max(alpha, _SMALLEST_ALPHA), _LARGEST_ALPHA)
    shape = (num_clients, num_classes)
    # Gamma(a) is Gamma(a + 1) * U ** (1 / a), and -log U is exponential.
    logs = np.log(generator.standard_gamma(alpha + 1, shape))
    logs -= generator.standard_exponential(shape) / alpha
    for _ in range(_NUM_ALTERNATIONS):
        logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
        logs -= np.logaddexp.reduce(logs, axis=0, keepdims=True)
    return np.exp(logs)


def _largest_remainder(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Round each column to whole numbers with the same sum.

    Every share is rounded down; what is left of a column goes one each to its largest
    remainders (ties: lower row first). Columns sum to whole numbers.
    """
    floors = np.floor(shares)
    left = np.rint(shares.sum(axis=0)) - floors.sum(axis=0)
    order = np.argsort(floors - shares, axis=0, kind="stable")
    rank = np.argsort(order, axis=0)
    whole: npt.NDArray[np.int64] = (floors + (rank < left)).astype(np.int64)
    return whole


def _meet_quotas(
    counts: npt.NDArray[np.int64], quotas: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Move samples, class by class, from clients over their quota to those under it.

    In each class a client gives what it has too much, and what is given is dealt in
    proportion to what the others lack. One pass suffices: a client's excess is at most
    its samples of all classes, and the clients under quota lack all that is given.

    Parameters
    ----------
    counts : ndarray, shape (num_clients, num_classes)
        Samples of each class that each client has.
    quotas : ndarray, shape (num_clients,)
        Samples that each client shall have; the sums are equal.
    """
    counts = counts.copy()
    for column in counts.T:  # a view: the class's count at each client
        excess = counts.sum(axis=1) - quotas
        given = np.minimum(np.maximum(excess, 0), column)
        lacking = np.maximum(-excess, 0)
        if given.any():
            shares = given.sum() * lacking / lacking.sum()
            column += _largest_remainder(shares[:, None])[:, 0] - given
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
