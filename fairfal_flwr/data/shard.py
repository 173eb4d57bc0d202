"""What one client holds, and what the server tests on."""

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.cache import Entry, ShardCache, stamp
from fairfal_flwr.data.datasets import find_source, load_image_set, mean_and_std
from fairfal_flwr.data.image_set import ImageSet, Request
from fairfal_flwr.data.longtail import long_tail_rows
from fairfal_flwr.data.partition import (
    balanced_dirichlet,
    client_sizes,
    deal_by_proportions,
    proportions_of,
)
from fairfal_flwr.data.reading import image_buffer, reading
from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import state_root
from fairfal_flwr.randomness import numpy_generator

if TYPE_CHECKING:
    from fairfal_flwr.config import DataConfig, RunConfig

__all__ = [
    "EvaluationSet",
    "Shard",
    "class_counts",
    "load_shard",
    "load_test_set",
    "partition_table",
]

log = logging.getLogger("fairfal.data")

_Rows = npt.NDArray[np.int64]
_CHUNK = 4096
_DEAL = {"long_tail", "imbalance_ratio", "partitioner", "alpha", "classes_per_client"}


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
        uint8. N is 0 for a server without test images; the shape is that of the
        clients' images nevertheless.
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


def load_shard(
    config: "RunConfig", partition_id: int, data_path: str = ""
) -> tuple[Shard, Tensor | None]:
    """Load one client's shard and, apart from it, the oracle's answers.

    The long tail follows `seed`, the deal `data.partition-seed` (METHOD sections 2
    and 7). Both are computed once per process for all clients. A shard that was loaded
    before comes from the cache.

    Parameters
    ----------
    config : RunConfig
        The run.
    partition_id : int
        Which client, in ``range(config.num_clients)``.
    data_path : str
        The client's own images: all of them are its shard. Empty deals `data-dir` to
        the clients.

    Returns
    -------
    shard : Shard
        On the CPU.
    labels : Tensor, shape (N,), or None
        int64, the true classes of `shard.images`; None where they are unknown.

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
    request = _request(config, data_path)
    data = config.data
    cache = ShardCache(
        state_root(config.state_dir) / "shards", data.cache_mb, data.memory_mb
    )
    key = _key(config, request, partition_id)
    entry = cache.load(key)
    if entry is None:
        entry = _make(config, request, partition_id)
        cache.save(key, entry)
    return _from_entry(entry)


def load_test_set(config: "RunConfig") -> EvaluationSet:
    """Load the server's test set: whole, and balanced in the paper's sets.

    With `data.server-test = false` no image is read; the keys of section `data` say
    what shape the clients' images have.

    Raises
    ------
    UserError
        If the image set cannot be loaded or has no test images, or a key is missing.
    """
    if not config.data.server_test:
        return _without_images(config.data)
    image_set = load_image_set(_request(config))
    if not len(image_set.test_images):
        raise UserError(
            f"{_request(config).place}, which has no test images for the server; add "
            "them, or set `data.server-test` to false."
        )
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
        int64; all 0 where the server cannot know them.

    Raises
    ------
    UserError
        If the image set cannot be loaded.
    """
    if not config.data.server_test:
        return np.zeros(len(config.data.classes), dtype=np.int64)
    image_set = load_image_set(_request(config))
    if image_set.train_labels is None or not len(image_set.train_labels):
        return np.zeros(image_set.num_classes, dtype=np.int64)
    rows = _training_rows(_request(config), config.data, config.seed)
    labels = image_set.train_labels.numpy()[rows]
    return np.bincount(labels, minlength=image_set.num_classes)


def partition_table(config: "RunConfig") -> tuple[_Rows, tuple[str, ...]]:
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
    request = _request(config)
    image_set = load_image_set(request)
    if image_set.train_labels is None:
        raise UserError(f"{request.place}, whose images have no labels to count.")
    dealt, _ = _split(
        request, config.data, config.seed, config.partition_seed, config.num_clients
    )
    labels = image_set.train_labels.numpy()
    return _table(labels, dealt, image_set.num_classes), image_set.class_names


def _request(config: "RunConfig", data_path: str = "") -> Request:
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


def _without_images(data: "DataConfig") -> EvaluationSet:
    needed = {
        "class-names": data.class_names,
        "image-size": data.image_size,
        "channels": data.channels,
    }
    if missing := [f"`data.{key}`" for key, value in needed.items() if not value]:
        raise UserError(
            f"`data.server-test` is false, so {', '.join(missing)} must say what the "
            "clients' images are."
        )
    mean, std = mean_and_std(data.normalization, data.channels)
    shape = (0, data.channels, data.image_size, data.image_size)
    return EvaluationSet(
        images=torch.empty(shape, dtype=torch.uint8),
        labels=torch.empty(0, dtype=torch.int64),
        class_names=data.classes,
        mean=mean,
        std=std,
    )


def _key(config: "RunConfig", request: Request, partition_id: int) -> str:
    """Return the name of a shard in the cache."""
    source = find_source(request.name)
    facts = {"request": asdict(request), "path": str(request.path)}
    if request.key == "data-dir":
        facts["deal"] = config.data.model_dump(include=_DEAL) | {
            "client": partition_id,
            "clients": config.num_clients,
            "seeds": [config.seed, config.partition_seed],
        }
    with reading(request.place, request.folder):
        return stamp(facts, source.files(request) if source.files else ())


def _make(config: "RunConfig", request: Request, partition_id: int) -> Entry:
    """Load the images and take the client's part."""
    image_set = load_image_set(request)
    if not len(image_set.train_images):
        raise UserError(f"{request.place}, which has no training images.")
    if request.key == "data-path":
        rows = np.arange(len(image_set.train_images))
        test_rows = np.arange(len(image_set.test_images))
    else:
        dealt, dealt_test = _split(
            request, config.data, config.seed, config.partition_seed, config.num_clients
        )
        rows, test_rows = dealt[partition_id], dealt_test[partition_id]
    images = _take(image_set.train_images, rows, request.memory_mb)
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": images,
        "sample_ids": rows.copy(),
        "test_images": _take(image_set.test_images, test_rows, request.memory_mb),
        "test_labels": image_set.test_labels.numpy()[test_rows],
    }
    if image_set.train_labels is not None:
        arrays["labels"] = image_set.train_labels.numpy()[rows]
    facts = {
        "class_names": image_set.class_names,
        "mean": image_set.mean,
        "std": image_set.std,
        "fingerprint": _fingerprint(images),
    }
    return Entry(arrays, facts)


def _from_entry(entry: Entry) -> tuple[Shard, Tensor | None]:
    arrays = {
        name: torch.from_numpy(array)
        for name, array in entry.arrays.items()
        if name != "sample_ids"
    }
    shard = Shard(
        images=arrays["images"],
        sample_ids=entry.arrays["sample_ids"],
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"],
        class_names=tuple(entry.facts["class_names"]),
        mean=tuple(entry.facts["mean"]),
        std=tuple(entry.facts["std"]),
        fingerprint=entry.facts["fingerprint"],
    )
    return shard, arrays.get("labels")


def _take(images: Tensor, rows: _Rows, memory_mb: int) -> npt.NDArray[np.uint8]:
    """Return some images, by ascending row, without a second copy in memory."""
    array: npt.NDArray[np.uint8] = images.numpy()
    if len(rows) == len(array):
        return array
    taken = image_buffer((len(rows), *array.shape[1:]), memory_mb)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        taken[part] = array[rows[part]]
    return taken


@lru_cache(maxsize=4)
def _training_rows(request: Request, data: "DataConfig", seed: int) -> _Rows:
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
def _split(
    request: Request,
    data: "DataConfig",
    seed: int,
    partition_seed: int,
    num_clients: int,
) -> tuple[list[_Rows], list[_Rows]]:
    """Return every client's rows of the training set and of the test set."""
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
    kept: _Rows,
    data: "DataConfig",
    num_clients: int,
    generator: np.random.Generator,
) -> tuple[list[_Rows], npt.NDArray[np.float64]]:
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
    kept: _Rows, data: "DataConfig", num_clients: int, generator: np.random.Generator
) -> list[_Rows]:
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


def _table(labels: _Rows, dealt: list[_Rows], num_classes: int) -> _Rows:
    """Count the samples of each class at each client."""
    counts = [np.bincount(labels[rows], minlength=num_classes) for rows in dealt]
    return np.stack(counts)


def _fingerprint(images: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:16]
