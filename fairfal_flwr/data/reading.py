"""Reading what others wrote: every failure is one line that names the file."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import home

__all__ = [
    "check_class_names",
    "check_labels",
    "datasets_folder",
    "existing_folder",
    "image_buffer",
    "reading",
]

MEBIBYTE = 1 << 20


@contextmanager
def reading(place: str, path: Path | str) -> Iterator[None]:
    """Turn what reading `path` can raise into a one-line `UserError`.

    Parameters
    ----------
    place : str
        How the line begins, such as "`data-dir` is '/data'".
    path : Path
        What is being read.
    """
    try:
        yield
    except EOFError:
        problem = "it is cut short"
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, SyntaxError, struct.error, zlib.error) as error:
        problem = str(error)
    else:
        return
    problem = " ".join(problem.split()).rstrip(".")
    raise UserError(f"{place}, but {str(path)!r} cannot be read: {problem}.") from None


def existing_folder(place: str, path: Path) -> None:
    """Raise `UserError` unless `path` is a folder that can be looked into."""
    with reading(place, path):
        if not path.is_dir():
            raise UserError(f"{place}, but there is no folder {str(path)!r}.")
        next(path.iterdir(), None)


def datasets_folder() -> Path:
    """Return the per-user folder of downloaded image sets."""
    return (home() / "datasets").expanduser().absolute()


def check_labels(values: npt.NDArray[Any], count: int, num_classes: int) -> Tensor:
    """Return labels as int64.

    Parameters
    ----------
    values : ndarray, shape (N,) or (N, 1)
        Integers of any size.
    count : int
        How many there must be.
    num_classes : int
        They must be in ``range(num_classes)``.

    Raises
    ------
    ValueError
        If they are something else.
    """
    if values.dtype.kind not in "iu":
        raise ValueError(f"its labels are {values.dtype}, not integers")
    if values.shape not in ((count,), (count, 1)):
        raise ValueError(f"labels of shape {values.shape} for {count} images")
    labels = values.reshape(-1)
    if count and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"its labels are {labels.min()} to {labels.max()}, allowed: 0 to "
            f"{num_classes - 1} ({num_classes} classes)"
        )
    return torch.from_numpy(labels.astype(np.int64))


def check_class_names(
    wanted: tuple[str, ...], found: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """Return the class names of a set that has its own.

    Raises
    ------
    UserError
        If `data.class-names` says something else than the set does.
    """
    if wanted and wanted != found:
        raise UserError(
            f"`data.class-names` is {','.join(wanted)!r}, but the classes of {name} "
            f"are {','.join(found)!r}; leave the key empty or give these."
        )
    return found


def image_buffer(shape: tuple[int, ...], memory_mb: int) -> npt.NDArray[np.uint8]:
    """Return room for uint8 images: in memory, or in a file above a limit.

    The file has no name and is gone when the process ends. Its space is reserved at
    once, so that a full disk is told here.

    Raises
    ------
    UserError
        If there is no room on disk.
    """
    size = prod(shape)
    if size <= memory_mb * MEBIBYTE:
        return np.empty(shape, dtype=np.uint8)
    folder = home().expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"`data.memory-mb` is {memory_mb}, so {size // MEBIBYTE} MiB of images go "
            f"to a file in {folder}, which failed: {error.strerror or error}."
        ) from None


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
