"""What one client holds, and what the server tests on."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.datasets import load_image_set
from fairfal_flwr.data.longtail import long_tail_rows
from fairfal_flwr.data.partition import balanced_dirichlet, deal_by_proportions
from fairfal_flwr.errors import UserError
from fairfal_flwr.randomness import numpy_generator

if TYPE_CHECKING:
    from fairfal_flwr.config import RunConfig

__all__ = ["EvaluationSet", "Shard", "class_counts", "load_shard", "load_test_set"]

_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shard:
    """One client's images. Their true labels are not in it: only an oracle has those.

    Attributes
    ----------
    images : Tensor, shape (N, channels, height, width)
        uint8.
    sample_ids : ndarray, shape (N,)
        int64, ascending: the row of each image in the whole training set. It
        identifies the sample for good.
    test_images : Tensor, shape (M, channels, height, width)
        uint8; the client's part of the test set, M may be 0.
    test_labels : Tensor, shape (M,)
        int64.
    class_names : tuple of str
        The class with label ``c`` is ``class_names[c]``.
    mean, std : tuple of float
        One per channel, for pixels scaled to [0, 1].
    fingerprint : str
        16 hex digits of a SHA-256 over the number, shape and bytes of `images`.
    """

    images: Tensor
    sample_ids: _Rows
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """The number of classes, whether or not the client has images of each."""
        return len(self.class_names)

    def to(self, device: torch.device | str) -> "Shard":
        """Return the same shard with its tensors on a device."""
        return replace(
            self,
            images=self.images.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The test set of all clients together, for the server's evaluator.

    Attributes
    ----------
    images : Tensor, shape (N, channels, height, width)
        uint8.
    labels : Tensor, shape (N,)
        int64.
    class_names : tuple of str
        The class with label ``c`` is ``class_names[c]``.
    mean, std : tuple of float
        One per channel, for pixels scaled to [0, 1].
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def load_shard(config: "RunConfig", partition_id: int) -> tuple[Shard, Tensor]:
    """Load one client's shard and, apart from it, the oracle's answers.

    The long tail follows `seed`, the deal `data.partition-seed` (METHOD sections 2
    and 7). Both are computed once per process for all clients.

    Parameters
    ----------
    config : RunConfig
        The run.
    partition_id : int
        Which client, in ``range(config.num_clients)``.

    Returns
    -------
    shard : Shard
        On the CPU.
    labels : Tensor, shape (N,)
        int64, the true classes of `shard.images`.

    Raises
    ------
    UserError
        If there is no such client, there are more clients than images, or the image
        set cannot be loaded.
    """
    if not 0 <= partition_id < config.num_clients:
        raise UserError(
            f"`partition-id` is {partition_id}; allowed: 0 to "
            f"{config.num_clients - 1}, since `num-clients` is {config.num_clients}."
        )
    image_set = load_image_set(config.data.name, config.data_dir)
    train_rows, test_rows = _split(
        config.data.name,
        config.data_dir,
        config.data.imbalance_ratio,
        config.seed,
        config.data.alpha,
        config.partition_seed,
        config.num_clients,
    )
    sample_ids = train_rows[partition_id].copy()
    picks = torch.from_numpy(sample_ids)
    test_picks = torch.from_numpy(test_rows[partition_id])
    images = image_set.train_images[picks]
    shard = Shard(
        images=images,
        sample_ids=sample_ids,
        test_images=image_set.test_images[test_picks],
        test_labels=image_set.test_labels[test_picks],
        class_names=image_set.class_names,
        mean=image_set.mean,
        std=image_set.std,
        fingerprint=_fingerprint(images),
    )
    return shard, image_set.train_labels[picks]


def load_test_set(config: "RunConfig") -> EvaluationSet:
    """Load the whole, balanced test set.

    Raises
    ------
    UserError
        If the image set cannot be loaded.
    """
    image_set = load_image_set(config.data.name, config.data_dir)
    return EvaluationSet(
        images=image_set.test_images,
        labels=image_set.test_labels,
        class_names=image_set.class_names,
        mean=image_set.mean,
        std=image_set.std,
    )


def class_counts(config: "RunConfig") -> _Rows:
    """Count the training images of each class at all clients, after the long tail.

    Returns
    -------
    ndarray, shape (num_classes,)
        int64.

    Raises
    ------
    UserError
        If the image set cannot be loaded.
    """
    image_set = load_image_set(config.data.name, config.data_dir)
    rows = _training_rows(
        config.data.name, config.data_dir, config.data.imbalance_ratio, config.seed
    )
    labels = image_set.train_labels.numpy()[rows]
    return np.bincount(labels, minlength=image_set.num_classes)


@lru_cache(maxsize=4)
def _training_rows(name: str, data_dir: str, ratio: float, seed: int) -> _Rows:
    """Return the rows of the training set that the long tail keeps."""
    labels = load_image_set(name, data_dir).train_labels.numpy()
    return long_tail_rows(labels, ratio, numpy_generator(seed, "long-tail"))


@lru_cache(maxsize=4)
def _split(
    name: str,
    data_dir: str,
    ratio: float,
    seed: int,
    alpha: float,
    partition_seed: int,
    num_clients: int,
) -> tuple[list[_Rows], list[_Rows]]:
    """Return every client's rows of the training set and of the test set."""
    image_set = load_image_set(name, data_dir)
    kept = _training_rows(name, data_dir, ratio, seed)
    dealt, proportions = balanced_dirichlet(
        image_set.train_labels.numpy()[kept],
        num_clients,
        alpha,
        numpy_generator(partition_seed, "partition"),
        num_classes=image_set.num_classes,
    )
    test_rows = deal_by_proportions(
        image_set.test_labels.numpy(),
        proportions,
        numpy_generator(partition_seed, "partition-test"),
    )
    return [kept[rows] for rows in dealt], test_rows


def _fingerprint(images: Tensor) -> str:
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.numpy().data)
    return digest.hexdigest()[:16]
