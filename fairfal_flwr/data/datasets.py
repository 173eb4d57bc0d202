"""The image sets that a run can be told to use, by name.

A new image set is one loader and one line in `IMAGE_SETS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.fashion_mnist import CLASS_NAMES, read_fashion_mnist
from fairfal_flwr.errors import UserError

__all__ = ["IMAGE_SETS", "ImageSet", "load_image_set"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images for training and for testing, before any split over clients.

    Attributes
    ----------
    name : str
        The value of `data.name`.
    train_images, test_images : Tensor, shape (N, channels, height, width)
        uint8.
    train_labels, test_labels : Tensor, shape (N,)
        int64, in ``range(num_classes)``.
    class_names : tuple of str
        The class with label ``c`` is ``class_names[c]``.
    mean, std : tuple of float
        One per channel, for pixels scaled to [0, 1].
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


@lru_cache(maxsize=4)
def load_image_set(name: str, data_dir: str) -> ImageSet:
    """Load an image set, once per process.

    Parameters
    ----------
    name : str
        A key of `IMAGE_SETS`.
    data_dir : str
        Folder with the files; empty looks in the usual places. `digits` is installed
        with scikit-learn and needs none.

    Raises
    ------
    UserError
        If the name is unknown, or the files are missing or damaged.
    """
    if name not in IMAGE_SETS:
        known = ", ".join(sorted(IMAGE_SETS))
        raise UserError(f"`data.name` is {name!r}; allowed: {known}.")
    return IMAGE_SETS[name](data_dir)


_DIGITS_TEST_PER_CLASS = 36


def _load_digits(data_dir: str) -> ImageSet:
    """Return scikit-learn's 8x8 digits at 16x16: 1,437 for training, 360 for testing.

    Each pixel is repeated in both directions, since CNN-4 halves an image four times.
    The split is the same for every seed: in each class, 36 images evenly spaced over
    its rows are for testing. Mean and standard deviation are the training images'.
    """
    table = _digits_table()
    pixels = (table[:, :-1] * 255 + 8) // 16  # 0..16 to 0..255, to the nearest
    images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8).repeat(2, 2).repeat(2, 3)
    labels = table[:, -1]
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        picks = np.arange(_DIGITS_TEST_PER_CLASS) * len(rows) // _DIGITS_TEST_PER_CLASS
        is_test[rows[picks]] = True
    return ImageSet(
        name="digits",
        train_images=torch.from_numpy(images[~is_test]),
        train_labels=torch.from_numpy(labels[~is_test]),
        test_images=torch.from_numpy(images[is_test]),
        test_labels=torch.from_numpy(labels[is_test]),
        class_names=tuple("0123456789"),
        mean=(0.3055,),
        std=(0.3760,),
    )


def _digits_table() -> npt.NDArray[np.int64]:
    """Return (1797, 65): 64 pixels in 0..16 and the label of each digit.

    The file in scikit-learn is read without importing scikit-learn where it lies at
    its known place: 0.01 s instead of 4 s.
    """
    spec = find_spec("sklearn")
    for package in (spec and spec.submodule_search_locations) or []:
        path = Path(package, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.int64)
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.int64)


def _load_fashion_mnist(data_dir: str) -> ImageSet:
    """Return Fashion-MNIST, normalized as METHOD section 2 says."""
    train_images, train_labels, test_images, test_labels = read_fashion_mnist(data_dir)
    return ImageSet(
        name="fashion-mnist",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=CLASS_NAMES,
        mean=(0.286,),
        std=(0.353,),
    )


IMAGE_SETS: dict[str, Callable[[str], ImageSet]] = {
    "digits": _load_digits,
    "fashion-mnist": _load_fashion_mnist,
}
