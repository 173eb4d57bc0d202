"""Which images belong to which client, in simulation and on a shared image set."""

import logging
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fairfal_flwr.data.balanced_dirichlet import (
    balanced_dirichlet,
    check_enough_images,
    client_sizes,
    deal_by_proportions,
    deal_in_equal_sizes,
    proportions_of,
)
from fairfal_flwr.data.datasets import load_image_set
from fairfal_flwr.data.image_set import ImageSet
from fairfal_flwr.data.longtail import long_tail_rows
from fairfal_flwr.data.specs import ImageSpec, PartitionSpec
from fairfal_flwr.errors import UserError
from fairfal_flwr.randomness import numpy_generator

__all__ = ["Rows", "class_counts", "partition_rows", "partition_table"]

log = logging.getLogger("fairfal.data")

Rows = npt.NDArray[np.int64]


def class_counts(images: ImageSpec, partition: PartitionSpec) -> Rows:
    """Count the training images of each class at all clients, after the long tail.

    Parameters
    ----------
    images : ImageSpec
        Which images there are.
    partition : PartitionSpec
        Its long tail.

    Returns
    -------
    ndarray, shape (num_classes,)
        int64; all 0 where the images have no labels or there are none.

    Raises
    ------
    UserError
        If the image set cannot be loaded.
    """
    image_set = load_image_set(images)
    if image_set.train_labels is None or not len(image_set.train_labels):
        return np.zeros(image_set.num_classes, dtype=np.int64)
    labels = image_set.train_labels.numpy()[_kept_rows(image_set, partition)]
    return np.bincount(labels, minlength=image_set.num_classes)


def partition_table(
    images: ImageSpec, partition: PartitionSpec
) -> tuple[Rows, tuple[str, ...]]:
    """Count the training images of each class at each client.

    Returns
    -------
    counts : ndarray, shape (num_clients, num_classes)
        int64.
    class_names : tuple of str
        The names of the columns.

    Raises
    ------
    UserError
        If the image set cannot be loaded or dealt, or its labels are unknown.
    """
    image_set = load_image_set(images)
    if image_set.train_labels is None:
        raise UserError(f"{images.place}, whose images have no labels to count.")
    dealt, _ = partition_rows(images, partition)
    labels = image_set.train_labels.numpy()
    return _table(labels, dealt, image_set.num_classes), image_set.class_names


@lru_cache(maxsize=4)
def partition_rows(
    images: ImageSpec, partition: PartitionSpec
) -> tuple[list[Rows], list[Rows]]:
    """Deal the images to all clients, once per process.

    Returns
    -------
    train, test : list of ndarray
        Per client its rows of the training set and of the test set, int64, ascending.

    Raises
    ------
    UserError
        If the image set cannot be loaded, or a client would get nothing.
    """
    image_set = load_image_set(images)
    kept = _kept_rows(image_set, partition)
    dealt, test_rows = _deal(image_set, kept, partition)
    if idle := [client for client, rows in enumerate(dealt) if not len(rows)]:
        raise UserError(
            f"`data.partitioner` is {partition.partitioner!r}, which leaves client "
            f"{idle[0]} without any image; choose fewer clients or a larger "
            "`data.alpha`."
        )
    return dealt, test_rows


def _kept_rows(image_set: ImageSet, partition: PartitionSpec) -> Rows:
    """Return the rows of the training set that the long tail keeps."""
    if image_set.train_labels is None:
        if partition.imbalance_ratio != 1:
            raise UserError(
                f"`data.imbalance-ratio` is {partition.imbalance_ratio:g}; allowed: 1 "
                "where the images have no labels."
            )
        return np.arange(len(image_set.train_images))
    return long_tail_rows(
        image_set.train_labels.numpy(),
        partition.imbalance_ratio,
        numpy_generator(partition.seed, "long-tail"),
        num_classes=image_set.num_classes,
        shape=partition.long_tail,
    )


def _deal(
    image_set: ImageSet, kept: Rows, partition: PartitionSpec
) -> tuple[list[Rows], list[Rows]]:
    """Deal the kept training rows and, by the same class proportions, the test rows."""
    num_clients, num_classes = partition.num_clients, image_set.num_classes
    seed = partition.partition_seed
    test_labels = image_set.test_labels.numpy()
    test_generator = numpy_generator(seed, "partition-test")
    if image_set.train_labels is None:
        dealt = _deal_unlabeled(kept, partition, numpy_generator(seed, "partition"))
        equal = np.full((num_clients, num_classes), 1 / num_clients)
        return dealt, deal_by_proportions(test_labels, equal, test_generator)
    labels = image_set.train_labels.numpy()
    if partition.partitioner == "balanced-dirichlet":
        rows, meant = balanced_dirichlet(
            labels[kept], num_clients, partition.alpha, seed, num_classes=num_classes
        )
        dealt = [kept[part] for part in rows]
        return dealt, deal_in_equal_sizes(test_labels, meant, test_generator)
    dealt = _deal_by_flower(labels, kept, partition, numpy_generator(seed, "partition"))
    shares = proportions_of(_table(labels, dealt, num_classes))
    return dealt, deal_by_proportions(test_labels, shares, test_generator)


def _deal_by_flower(
    labels: Rows, kept: Rows, partition: PartitionSpec, generator: np.random.Generator
) -> list[Rows]:
    """Deal by a partitioner of flwr-datasets, and say what it leaves to nobody."""
    from fairfal_flwr.data.flower_partitioner import flower_deal

    rows = flower_deal(
        partition.partitioner,
        labels[kept],
        partition.num_clients,
        generator,
        alpha=partition.alpha,
        classes_per_client=partition.classes_per_client,
    )
    dealt = [kept[part] for part in rows]
    if unused := len(kept) - sum(map(len, dealt)):
        log.warning(
            "data.partitioner = %s: %d of %d images belong to no client",
            partition.partitioner,
            unused,
            len(kept),
        )
    return dealt


def _deal_unlabeled(
    kept: Rows, partition: PartitionSpec, generator: np.random.Generator
) -> list[Rows]:
    """Deal images without labels, which is possible in equal parts only."""
    if partition.partitioner != "iid":
        raise UserError(
            f"`data.partitioner` is {partition.partitioner!r}, which goes by labels, "
            "but the images have none; allowed: iid, or `data-path` in each "
            "SuperNode's node config."
        )
    num_clients = partition.num_clients
    check_enough_images(len(kept), num_clients)
    ends = np.cumsum(client_sizes(len(kept), num_clients))[:-1]
    parts = np.split(generator.permutation(kept), ends)
    return [np.sort(part) for part in parts]


def _table(labels: Rows, dealt: list[Rows], num_classes: int) -> Rows:
    """Count the samples of each class at each client."""
    counts = [np.bincount(labels[rows], minlength=num_classes) for rows in dealt]
    return np.stack(counts)
