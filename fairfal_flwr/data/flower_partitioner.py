"""The border to flwr-datasets: its partitioners for us, and ours for it.

Import this module only where it is needed: flwr-datasets takes seconds. For the same
reason the application calls `balanced_dirichlet` directly.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    ExponentialPartitioner,
    IidPartitioner,
    InnerDirichletPartitioner,
    LinearPartitioner,
    Partitioner,
    PathologicalPartitioner,
    ShardPartitioner,
    SquarePartitioner,
)

from fairfal_flwr.data.balanced_dirichlet import (
    balanced_dirichlet,
    check_enough_images,
    client_sizes,
)
from fairfal_flwr.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["FLOWER_PARTITIONERS", "BalancedDirichletPartitioner", "flower_deal"]

_MakePartitioner = Callable[..., Partitioner]
_LABEL, _ROW = "label", "row"


class BalancedDirichletPartitioner(Partitioner):  # type: ignore[misc]
    """Deal a dataset to clients of equal size by Dirichlet class proportions.

    The partitions are those that `fairfal_flwr.data.load_shard` deals for the same
    labels and the same `data.partition-seed`. See method §2.

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
            self._seed,
            num_classes=num_classes,
        )
        return rows


def flower_deal(
    name: str,
    labels: npt.NDArray[np.int64],
    num_clients: int,
    generator: np.random.Generator,
    *,
    alpha: float,
    classes_per_client: int,
) -> list[npt.NDArray[np.int64]]:
    """Deal samples with a partitioner of flwr-datasets.

    The samples are shuffled before: some partitioners cut them in their given order.

    Parameters
    ----------
    name : str
        A key of `FLOWER_PARTITIONERS`.
    labels : ndarray, shape (N,)
        int64.
    num_clients : int
        Number of clients.
    generator : numpy.random.Generator
        The only source of randomness.
    alpha, classes_per_client
        `data.alpha` and `data.classes-per-client`, where a partitioner needs them.

    Returns
    -------
    list of ndarray
        Per client its rows of `labels`, int64, ascending. A partitioner may leave
        rows to nobody.

    Raises
    ------
    UserError
        If the partitioner cannot deal so.
    """
    from datasets import Dataset

    check_enough_images(len(labels), num_clients)
    _check_enough_classes(name, labels, classes_per_client)
    order = generator.permutation(len(labels))
    dataset = Dataset.from_dict({_LABEL: labels[order], _ROW: order})
    try:
        partitioner = FLOWER_PARTITIONERS[name](
            num_clients=num_clients,
            num_samples=len(labels),
            seed=int(generator.integers(2**31)),
            alpha=alpha,
            classes_per_client=classes_per_client,
        )
        partitioner.dataset = dataset
        parts = [partitioner.load_partition(client) for client in range(num_clients)]
    except (ValueError, ZeroDivisionError, IndexError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"`data.partitioner` is {name!r}, which cannot deal {len(labels)} images "
            f"to {num_clients} clients: {reason}."
        ) from None
    columns = [part.with_format("numpy")[_ROW] for part in parts]
    return [np.sort(np.asarray(column[:], dtype=np.int64)) for column in columns]


def _check_enough_classes(
    name: str, labels: npt.NDArray[np.int64], classes_per_client: int
) -> None:
    """Raise for what flwr-datasets refuses in words that name no key."""
    num_classes = len(np.unique(labels))
    if name == "pathological" and classes_per_client > num_classes:
        raise UserError(
            f"`data.classes-per-client` is {classes_per_client}; allowed: 1 to "
            f"{num_classes}, the number of classes."
        )


def _sized(kind: Callable[[int], Partitioner]) -> _MakePartitioner:
    """Return a maker for a partitioner that looks at no label."""
    return lambda *, num_clients, **_: kind(num_clients)


def _dirichlet(
    *, num_clients: int, alpha: float, seed: int, **_: Any
) -> DirichletPartitioner:
    return DirichletPartitioner(
        num_clients, _LABEL, alpha, min_partition_size=1, seed=seed
    )


def _inner_dirichlet(
    *, num_clients: int, num_samples: int, alpha: float, seed: int, **_: Any
) -> InnerDirichletPartitioner:
    sizes = client_sizes(num_samples, num_clients)
    return InnerDirichletPartitioner(sizes.tolist(), _LABEL, alpha, seed=seed)


def _pathological(
    *, num_clients: int, classes_per_client: int, seed: int, **_: Any
) -> PathologicalPartitioner:
    return PathologicalPartitioner(
        num_clients,
        _LABEL,
        classes_per_client,
        class_assignment_mode="first-deterministic",
        seed=seed,
    )


def _shard(
    *, num_clients: int, classes_per_client: int, seed: int, **_: Any
) -> ShardPartitioner:
    return ShardPartitioner(
        num_clients,
        _LABEL,
        num_shards_per_partition=classes_per_client,
        keep_incomplete_shard=True,
        seed=seed,
    )


FLOWER_PARTITIONERS: dict[str, _MakePartitioner] = {
    "iid": _sized(IidPartitioner),
    "dirichlet": _dirichlet,
    "inner-dirichlet": _inner_dirichlet,
    "pathological": _pathological,
    "shard": _shard,
    "linear": _sized(LinearPartitioner),
    "square": _sized(SquarePartitioner),
    "exponential": _sized(ExponentialPartitioner),
}
