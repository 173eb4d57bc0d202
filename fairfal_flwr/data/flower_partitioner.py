"""The balanced Dirichlet deal as a partitioner of flwr-datasets.

For use with `FederatedDataset` and the other tools of flwr-datasets. The application
itself calls `balanced_dirichlet` directly, since importing flwr-datasets takes seconds.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from flwr_datasets.partitioner import Partitioner

from fairfal_flwr.data.partition import balanced_dirichlet
from fairfal_flwr.randomness import numpy_generator

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["BalancedDirichletPartitioner"]


class BalancedDirichletPartitioner(Partitioner):  # type: ignore[misc]
    """Deal a dataset to clients of equal size by Dirichlet class proportions.

    The partitions are those that `fairfal_flwr.data.load_shard` deals for the same
    labels and the same `data.partition-seed`. METHOD section 2.

    Parameters
    ----------
    num_partitions : int
        Number of clients, from 1 to the number of rows.
    partition_by : str
        The column with the labels, whole numbers from 0.
    alpha : float
        Dirichlet concentration, positive; see `balanced_dirichlet`.
    seed : int, default 0
        Seed of the deal.

    Raises
    ------
    UserError
        On first use, if there are more partitions than rows, or none.
    """

    def __init__(
        self, num_partitions: int, partition_by: str, alpha: float, seed: int = 0
    ) -> None:
        super().__init__()
        self._num_partitions = num_partitions
        self._partition_by = partition_by
        self._alpha = alpha
        self._seed = seed
        self._rows: list[npt.NDArray[np.int64]] | None = None

    @property
    def num_partitions(self) -> int:
        """The number of clients."""
        return self._num_partitions

    def load_partition(self, partition_id: int) -> "Dataset":
        """Return the rows of one client, in the order of the dataset."""
        if self._rows is None:
            self._rows = self._deal()
        return self.dataset.select(self._rows[partition_id])

    def _deal(self) -> list[npt.NDArray[np.int64]]:
        column = self.dataset.with_format("numpy")[self._partition_by]
        labels = np.asarray(column[:], dtype=np.int64)
        feature = self.dataset.features[self._partition_by]
        num_classes = getattr(feature, "num_classes", int(labels.max()) + 1)
        rows, _ = balanced_dirichlet(
            labels,
            self._num_partitions,
            self._alpha,
            numpy_generator(self._seed, "partition"),
            num_classes=num_classes,
        )
        return rows
