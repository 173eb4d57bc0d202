"""Who answers what a client asks."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Oracle"]


class Oracle:
    """Answers every request at once with the truth; for simulated annotation.

    The only holder of the labels of the pool: acquisition code sees requests, never
    this object.

    Parameters
    ----------
    sample_ids : ndarray, shape (N,), int64
        Ascending.
    labels : Tensor, shape (N,), int64
        The class of each.
    """

    name = "oracle"

    def __init__(self, sample_ids: NDArray[np.int64], labels: Tensor) -> None:
        self._sample_ids = sample_ids
        self._labels = labels.numpy()

    def answer(self, sample_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the classes of some samples, shape and order as asked."""
        rows = np.searchsorted(self._sample_ids, sample_ids)
        answers: NDArray[np.int64] = self._labels[rows]
        return answers
