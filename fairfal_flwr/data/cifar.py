"""CIFAR-10 and CIFAR-100, in the pickled batches that their authors publish.

Learning Multiple Layers of Features from Tiny Images
    Alex Krizhevsky. Technical Report, University of Toronto, 2009.

A pickle can run any program when it is read. torchvision trusts these files by their
MD5 sum; here they are read by an unpickler that knows arrays, numbers and texts and
nothing else, so a file from anywhere does no harm. torchvision downloads, no more.
"""

import pickle
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.image_set import ImageSet, Source
from fairfal_flwr.data.reading import (
    check_class_names,
    check_labels,
    datasets_folder,
    existing_folder,
    reading,
)
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["CIFAR10", "CIFAR100"]

_SIDE = 32
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


@dataclass(frozen=True)
class _Layout:
    """How one of the two sets is laid out.

    Attributes
    ----------
    folder : str
        Name of the folder in the published archive.
    train, test : tuple of str
        Files of each split.
    meta : str
        File with the class names.
    labels, names : str
        Keys of the labels and of the class names.
    num_classes : int
        Number of classes.
    mean, std : tuple of float
        Of each channel (method §2).
    download : str
        torchvision's class.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    download: str

    @property
    def files(self) -> tuple[str, ...]:
        """All files, in the order they are read."""
        return (self.meta, *self.train, *self.test)

    def read(self, spec: ImageSpec) -> ImageSet:
        """Return the images of the set."""
        folder = self._locate(spec)
        train_images, train_labels = self._read_split(spec, folder, self.train)
        test_images, test_labels = self._read_split(spec, folder, self.test)
        names = self._class_names(spec, folder / self.meta)
        return ImageSet(
            name=spec.name,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            class_names=check_class_names(spec.class_names, names, spec.name),
            mean=self.mean,
            std=self.std,
        )

    def paths(self, spec: ImageSpec) -> Iterable[Path]:
        """Return the files of the set."""
        folder = self._locate(spec)
        return [folder / name for name in self.files]

    def _locate(self, spec: ImageSpec) -> Path:
        """Return the folder that holds all files; download where none is given."""
        root = spec.path if spec.folder else datasets_folder()
        if not spec.folder and self._missing(root / self.folder):
            self._download(root)
        existing_folder(spec.place, root)
        inside = root / self.folder
        folder = inside if inside.is_dir() else root
        if missing := self._missing(folder):
            raise UserError(
                f"{spec.place}, but {str(folder)!r} lacks {', '.join(missing)}, "
                f"files of the unpacked archive of {spec.name} ({self.folder}/)."
            )
        return folder

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not (folder / name).is_file()]

    def _download(self, root: Path) -> None:
        """Download into `root`: all files at once or none."""
        try:
            from torchvision import datasets

            root.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=root) as scratch:
                getattr(datasets, self.download)(scratch, download=True)
                with suppress(OSError):  # another process has finished first
                    Path(scratch, self.folder).rename(root / self.folder)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.download} is not in {root / self.folder}, and the download "
                f"failed ({reason}); set `data-dir` to a folder that holds its files."
            ) from None

    def _read_split(
        self, spec: ImageSpec, folder: Path, files: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        parts = [self._read_batch(spec, folder / name) for name in files]
        images, labels = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(labels)

    def _read_batch(self, spec: ImageSpec, path: Path) -> tuple[Tensor, Tensor]:
        with reading(spec.place, path):
            batch = _unpickle(path, {"data", self.labels})
            pixels: npt.NDArray[Any] = batch["data"]
            row = 3 * _SIDE * _SIDE
            if (
                not isinstance(pixels, np.ndarray)
                or pixels.dtype != np.uint8
                or pixels.shape[1:] != (row,)
            ):
                raise ValueError(f"its `data` is not an array of {row} bytes an image")
            images = pixels.reshape(-1, 3, _SIDE, _SIDE).copy()
            labels = np.asarray(batch[self.labels])
            return torch.from_numpy(images), check_labels(
                labels, len(images), self.num_classes
            )

    def _class_names(self, spec: ImageSpec, path: Path) -> tuple[str, ...]:
        with reading(spec.place, path):
            names = _unpickle(path, {self.names})[self.names]
            if not isinstance(names, list) or len(names) != self.num_classes:
                raise ValueError(f"`{self.names}` is no list of {self.num_classes}")
            return tuple(str(name) for name in names)


class _Harmless(pickle.Unpickler):
    """An unpickler that builds arrays, numbers and texts, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may name; anything else is refused."""
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def _unpickle(path: Path, keys: set[str]) -> dict[str, Any]:
    """Return the mapping that a file of Python 2's pickle holds.

    Raises
    ------
    ValueError, EOFError, OSError
        If it is something else.
    """
    try:
        with path.open("rb") as file:
            content = _Harmless(file, encoding="latin1").load()
    except (EOFError, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"it is no batch of CIFAR: {error}") from None
    if not isinstance(content, dict) or not keys <= content.keys():
        raise ValueError(f"it lacks the keys {', '.join(sorted(keys))}")
    return content


_CIFAR10 = _Layout(
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels="labels",
    names="label_names",
    num_classes=10,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    download="CIFAR10",
)
_CIFAR100 = _Layout(
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
    num_classes=100,
    mean=(0.507, 0.487, 0.441),
    std=(0.267, 0.256, 0.276),
    download="CIFAR100",
)
CIFAR10 = Source(_CIFAR10.read, _CIFAR10.paths)
CIFAR100 = Source(_CIFAR100.read, _CIFAR100.paths)
