"""What a source of images is, and what every source gives."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fairfal_flwr.data.specs import ImageSpec

__all__ = ["HALF", "ImageSet", "Source"]

HALF = 0.5
"""Mean and standard deviation where none is published."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images for training and for testing, before any split over clients.

    Attributes
    ----------
    name : str
        The value of `data.name`.
    train_images, test_images : Tensor, shape (N, channels, height, width)
        uint8. There may be no test images.
    train_labels : Tensor, shape (N,), or None
        int64, in ``range(num_classes)``; None where they are unknown.
    test_labels : Tensor, shape (N,)
        int64, in ``range(num_classes)``.
    class_names : tuple of str
        The class with label ``c`` is ``class_names[c]``.
    mean, std : tuple of float
        One per channel, for pixels scaled to [0, 1].
    sample_ids : ndarray, shape (N,), or None
        int64, what identifies each training image wherever its row is; None where its
        row does.
    files : tuple of str
        The file of each training image, below the spec's folder; empty where an image
        is no file.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sample_ids: npt.NDArray[np.int64] | None = None
    files: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class Source:
    """One kind of image set.

    Attributes
    ----------
    read : callable
        Returns the images, or raises one `UserError`.
    files : callable, optional
        Returns the files that `read` would read, so that a cache notices when they
        change. It must be fast. None: the images come from no file of the user.
    """

    read: Callable[[ImageSpec], ImageSet]
    files: Callable[[ImageSpec], Iterable[Path]] | None = None
