"""What one client holds."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.cache import Entry, ShardCache, stamp
from fairfal_flwr.data.datasets import find_source, load_image_set
from fairfal_flwr.data.image_set import ImageSet
from fairfal_flwr.data.partition import Rows, partition_rows
from fairfal_flwr.data.reading import image_buffer, reading
from fairfal_flwr.data.specs import ImageSpec, PartitionSpec
from fairfal_flwr.errors import UserError

__all__ = ["Shard", "load_shard"]

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Shard:
    """One client's images. Their true labels are not in it: only an oracle has those.

    Attributes
    ----------
    images : Tensor, shape (N, channels, height, width)
        uint8.
    sample_ids : ndarray, shape (N,)
        int64, ascending: what identifies each sample for good. Of a file its path and
        content (`identity_of`), else the row in the whole training set.
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
    files : tuple of str
        The file of each image, below `folder`; empty where images are no files. Where
        a folder is sorted by class, a path tells the class.
    folder : str
        Absolute; empty without files.
    """

    images: Tensor
    sample_ids: Rows
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    files: tuple[str, ...] = ()
    folder: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """The number of classes, whether or not the client has images of each."""
        return len(self.class_names)

    @property
    def identity(self) -> str:
        """What a ledger belongs to: content, number of images, names of the classes.

        Three words. The content of files is in their samples' identities, so the first
        word only says that they are files.
        """
        names = hashlib.sha256(json.dumps(self.class_names).encode()).hexdigest()[:16]
        content = "files" if self.files else self.fingerprint
        return f"{content} {len(self)} {names}"

    def to(self, device: torch.device | str) -> "Shard":
        """Return the same shard with its tensors on a device."""
        return replace(
            self,
            images=self.images.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def load_shard(
    images: ImageSpec,
    partition: PartitionSpec,
    client: int,
    *,
    cache: ShardCache | None = None,
) -> tuple[Shard, Tensor | None]:
    """Load one client's shard and, apart from it, the oracle's answers.

    The deal is computed once per process for all clients (method §2 and §7).

    Parameters
    ----------
    images : ImageSpec
        Which images there are. Those of one client are its shard, all of them.
    partition : PartitionSpec
        How the others are dealt, and to how many clients.
    client : int
        Which client, in ``range(partition.num_clients)``.
    cache : ShardCache, optional
        Keeps the shard for the next process.

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
    if not 0 <= client < partition.num_clients:
        last = partition.num_clients - 1
        raise UserError(
            f"`partition-id` is {client}; allowed: 0 to {last}, since `num-clients` is "
            f"{partition.num_clients}."
        )
    if cache is None:
        return _from_entry(_make(images, partition, client))
    key = _key(images, partition, client)
    entry = cache.load(key)
    if entry is None:
        entry = _make(images, partition, client)
        cache.save(key, entry)
    return _from_entry(entry)


def _key(images: ImageSpec, partition: PartitionSpec, client: int) -> str:
    """Return the name of a shard in the cache, from all that determines it.

    A folder enters as what it means, however it is spelled; where images are held in
    memory is no part of them.
    """
    form = asdict(images) | {"folder": str(images.path) if images.folder else ""}
    del form["memory_mb"]
    facts: dict[str, Any] = {"images": form}
    if not images.of_one_client:
        facts |= {"partition": asdict(partition), "client": client}
    source = find_source(images.name)
    with reading(images.place, images.folder):
        return stamp(facts, source.files(images) if source.files else ())


def _make(images: ImageSpec, partition: PartitionSpec, client: int) -> Entry:
    """Load the images and take the client's part."""
    image_set = load_image_set(images)
    if not len(image_set.train_images):
        raise UserError(f"{images.place}, which has no training images.")
    if images.of_one_client:
        rows = np.arange(len(image_set.train_images))
        test_rows = np.arange(len(image_set.test_images))
    else:
        train, test = partition_rows(images, partition)
        rows, test_rows = train[client], test[client]
    folder = str(images.path) if image_set.files else ""
    return _entry(image_set, rows, test_rows, folder, images.memory_mb)


def _entry(
    image_set: ImageSet, rows: Rows, test_rows: Rows, folder: str, memory_mb: int
) -> Entry:
    sample_ids = rows.copy()
    if image_set.sample_ids is not None:
        rows = rows[np.argsort(image_set.sample_ids[rows])]
        sample_ids = image_set.sample_ids[rows]
    images = _take(image_set.train_images, rows, memory_mb)
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": images,
        "sample_ids": sample_ids,
        "test_images": _take(image_set.test_images, test_rows, memory_mb),
        "test_labels": image_set.test_labels.numpy()[test_rows],
    }
    if image_set.train_labels is not None:
        arrays["labels"] = image_set.train_labels.numpy()[rows]
    facts = {
        "class_names": image_set.class_names,
        "mean": image_set.mean,
        "std": image_set.std,
        "fingerprint": _fingerprint(images),
        "files": [image_set.files[row] for row in rows] if image_set.files else [],
        "folder": folder,
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
        files=tuple(entry.facts["files"]),
        folder=entry.facts["folder"],
    )
    return shard, arrays.get("labels")


def _take(images: Tensor, rows: Rows, memory_mb: int) -> npt.NDArray[np.uint8]:
    """Return some images; all in their own order without a second copy in memory."""
    array: npt.NDArray[np.uint8] = images.numpy()
    if np.array_equal(rows, np.arange(len(array))):
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
