"""What one client holds, and what the server tests on."""

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.cache import Entry, ShardCache, stamp
from fairfal_flwr.data.datasets import find_source, load_image_set, mean_and_std
from fairfal_flwr.data.deal import Rows, deal, request_of
from fairfal_flwr.data.image_set import Request
from fairfal_flwr.data.reading import image_buffer, reading
from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import state_root

if TYPE_CHECKING:
    from fairfal_flwr.config import DataConfig, RunConfig

__all__ = [
    "EvaluationSet",
    "Shard",
    "load_shard",
    "load_test_set",
]

log = logging.getLogger("fairfal.data")

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
    sample_ids: Rows
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
    request = request_of(config, data_path)
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
    image_set = load_image_set(request_of(config))
    if not len(image_set.test_images):
        raise UserError(
            f"{request_of(config).place}, which has no test images for the server; add "
            "them, or set `data.server-test` to false."
        )
    return EvaluationSet(
        images=image_set.test_images,
        labels=image_set.test_labels,
        class_names=image_set.class_names,
        mean=image_set.mean,
        std=image_set.std,
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
        dealt, dealt_test = deal(config)
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


def _take(images: Tensor, rows: Rows, memory_mb: int) -> npt.NDArray[np.uint8]:
    """Return some images, by ascending row, without a second copy in memory."""
    array: npt.NDArray[np.uint8] = images.numpy()
    if len(rows) == len(array):
        return array
    taken = image_buffer((len(rows), *array.shape[1:]), memory_mb)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        taken[part] = array[rows[part]]
    return taken


def _fingerprint(images: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:16]
