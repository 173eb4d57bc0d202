"""scikit-learn's handwritten digits: the image set that is always there."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairfal_flwr.data.image_set import ImageSet, Source
from fairfal_flwr.data.reading import check_class_names
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["DIGITS"]

_TEST_PER_CLASS = 36


def _read(spec: ImageSpec) -> ImageSet:
    """Return scikit-learn's 8x8 digits at 16x16: 1,437 for training, 360 for testing.

    Each pixel is repeated in both directions, since CNN-4 halves an image four times.
    The split is the same for every seed: in each class, 36 images evenly spaced over
    its rows are for testing. Mean and standard deviation are the training images'.
    """
    if spec.folder and spec.of_one_client:
        raise UserError(
            f"{spec.place} in the node config, but `data.name` is 'digits', which "
            "has no files; set it to 'folder', 'npz' or another set."
        )
    table = _digits_table()
    pixels = (table[:, :-1] * 255 + 8) // 16  # 0..16 to 0..255, to the nearest
    images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8).repeat(2, 2).repeat(2, 3)
    labels = table[:, -1]
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        picks = np.arange(_TEST_PER_CLASS) * len(rows) // _TEST_PER_CLASS
        is_test[rows[picks]] = True
    return ImageSet(
        name=spec.name,
        train_images=torch.from_numpy(images[~is_test]),
        train_labels=torch.from_numpy(labels[~is_test]),
        test_images=torch.from_numpy(images[is_test]),
        test_labels=torch.from_numpy(labels[is_test]),
        class_names=check_class_names(spec.class_names, tuple("0123456789"), spec.name),
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


DIGITS = Source(_read)
