"""Which images belong to which client, in simulation and on a shared image set."""

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fairfal_flwr.data.datasets import load_image_set
from fairfal_flwr.data.image_set import ImageSet, Request
from fairfal_flwr.data.longtail import long_tail_rows
from fairfal_flwr.data.partition import (
    balanced_dirichlet,
    client_sizes,
    deal_by_proportions,
    proportions_of,
)
from fairfal_flwr.errors import UserError
from fairfal_flwr.randomness import numpy_generator

if TYPE_CHECKING:
    from fairfal_flwr.config import DataConfig, RunConfig

__all__ = ["class_counts", "deal", "partition_table", "request_of"]

log = logging.getLogger("fairfal.data")

Rows = npt.NDArray[np.int64]


def class_counts(config: "RunConfig") -> Rows:
    """Count the training images of each class at all clients, after the long tail.

    Returns
    -------
    ndarray, shape (num_classes,)
        int64; all 0 where the server cannot know them.

    Raises
    ------
    UserError
        If the image set cannot be loaded.
    """
    if not config.data.server_test:
        return np.zeros(len(config.data.classes), dtype=np.int64)
    image_set = load_image_set(request_of(config))
    if image_set.train_labels is None or not len(image_set.train_labels):
        return np.zeros(image_set.num_classes, dtype=np.int64)
    rows = _training_rows(request_of(config), config.data, config.seed)
    labels = image_set.train_labels.numpy()[rows]
    return np.bincount(labels, minlength=image_set.num_classes)


def partition_table(config: "RunConfig") -> tuple[Rows, tuple[str, ...]]:
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
    request = request_of(config)
    image_set = load_image_set(request)
    if image_set.train_labels is None:
        raise UserError(f"{request.place}, whose images have no labels to count.")
    dealt, _ = deal(config)
    labels = image_set.train_labels.numpy()
    return _table(labels, dealt, image_set.num_classes), image_set.class_names


def request_of(config: "RunConfig", data_path: str = "") -> Request:
    """Return which images a run asks for: those of a node's own path, if it has one."""
    data = config.data
    return Request(
        name=data.name,
        folder=data_path or config.data_dir,
        class_names=data.classes,
        image_size=data.image_size,
        channels=data.channels,
        normalization=data.normalization,
        memory_mb=data.memory_mb,
        key="data-path" if data_path else "data-dir",
    )


def deal(config: "RunConfig") -> tuple[list[Rows], list[Rows]]:
    """Return every client's rows of the training set and of the test set.

    Raises
    ------
    UserError
        If the image set cannot be loaded, or a client would get nothing.
    """
    return _dealt(
        request_of(config),
        config.data,
        config.seed,
        config.partition_seed,
        config.num_clients,
    )


@lru_cache(maxsize=4)
def _training_rows(request: Request, data: "DataConfig", seed: int) -> Rows:
    """Return the rows of the training set that the long tail keeps."""
    image_set = load_image_set(request)
    if image_set.train_labels is None:
        if data.imbalance_ratio != 1:
            raise UserError(
                f"`data.imbalance-ratio` is {data.imbalance_ratio:g}; allowed: 1 where "
                "the images have no labels."
            )
        return np.arange(len(image_set.train_images))
    return long_tail_rows(
        image_set.train_labels.numpy(),
        data.imbalance_ratio,
        numpy_generator(seed, "long-tail"),
        num_classes=image_set.num_classes,
        shape=data.long_tail,
    )


@lru_cache(maxsize=4)
def _dealt(
    request: Request,
    data: "DataConfig",
    seed: int,
    partition_seed: int,
    num_clients: int,
) -> tuple[list[Rows], list[Rows]]:
    """See `deal`; what it depends on, and no more, so that it is done once."""
    image_set = load_image_set(request)
    kept = _training_rows(request, data, seed)
    generator = numpy_generator(partition_seed, "partition")
    if image_set.train_labels is None:
        dealt = _deal_unlabeled(kept, data, num_clients, generator)
        proportions = np.full((num_clients, image_set.num_classes), 1 / num_clients)
    else:
        dealt, proportions = _deal(image_set, kept, data, num_clients, generator)
    if idle := [client for client, rows in enumerate(dealt) if not len(rows)]:
        raise UserError(
            f"`data.partitioner` is {data.partitioner!r}, which leaves client "
            f"{idle[0]} without any image; choose fewer clients or a larger "
            "`data.alpha`."
        )
    test_rows = deal_by_proportions(
        image_set.test_labels.numpy(),
        proportions,
        numpy_generator(partition_seed, "partition-test"),
    )
    return dealt, test_rows


def _deal(
    image_set: ImageSet,
    kept: Rows,
    data: "DataConfig",
    num_clients: int,
    generator: np.random.Generator,
) -> tuple[list[Rows], npt.NDArray[np.float64]]:
    """Deal labeled images; return rows per client and class-by-client proportions."""
    assert image_set.train_labels is not None
    labels = image_set.train_labels.numpy()
    if data.partitioner == "balanced-dirichlet":
        rows, proportions = balanced_dirichlet(
            labels[kept],
            num_clients,
            data.alpha,
            generator,
            num_classes=image_set.num_classes,
        )
        return [kept[part] for part in rows], proportions
    from fairfal_flwr.data.flower_partitioner import flower_deal

    rows = flower_deal(
        data.partitioner,
        labels[kept],
        num_clients,
        generator,
        alpha=data.alpha,
        classes_per_client=data.classes_per_client,
    )
    dealt = [kept[part] for part in rows]
    if unused := len(kept) - sum(map(len, dealt)):
        log.warning(
            "data.partitioner = %s: %d of %d images belong to no client",
            data.partitioner,
            unused,
            len(kept),
        )
    return dealt, proportions_of(_table(labels, dealt, image_set.num_classes))


def _deal_unlabeled(
    kept: Rows, data: "DataConfig", num_clients: int, generator: np.random.Generator
) -> list[Rows]:
    """Deal images without labels, which is possible in equal parts only."""
    if data.partitioner != "iid":
        raise UserError(
            f"`data.partitioner` is {data.partitioner!r}, which goes by labels, but "
            "the images have none; allowed: iid, or `data-path` in each SuperNode's "
            "node config."
        )
    if num_clients > len(kept):
        raise UserError(
            f"`num-clients` is {num_clients}; allowed: 1 to {len(kept)}, the number of "
            "training images."
        )
    ends = np.cumsum(client_sizes(len(kept), num_clients))[:-1]
    parts = np.split(generator.permutation(kept), ends)
    return [np.sort(part) for part in parts]


def _table(labels: Rows, dealt: list[Rows], num_classes: int) -> Rows:
    """Count the samples of each class at each client."""
    counts = [np.bincount(labels[rows], minlength=num_classes) for rows in dealt]
    return np.stack(counts)
