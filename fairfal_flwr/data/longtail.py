"""The long tail: fewer and fewer training images from the first class to the last.

See method §2; the shape is that of

Class-Balanced Loss Based on Effective Number of Samples
    Yin Cui, Menglin Jia, Tsung-Yi Lin, Yang Song, Serge Belongie. CVPR 2019.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["long_tail_counts", "long_tail_rows"]


def long_tail_counts(
    num_images: int,
    num_classes: int,
    ratio: float,
    shape: Literal["exp", "step"] = "exp",
) -> npt.NDArray[np.int64]:
    """Return how many images each class keeps.

    With `exp`, class c keeps n_max * (1 / ratio) ** (c / (C - 1)), rounded down, where
    n_max = num_images / C. With `step` the first half of the classes keeps n_max and
    the second half n_max / ratio; of an odd number the first half has one more. Where
    a count is whole but for the rounding of floating-point numbers, it is that whole
    number.

    Parameters
    ----------
    num_images : int
        Images of all classes together.
    num_classes : int
        C. A single class keeps all.
    ratio : float
        Largest class over smallest, at least 1 (the paper's rho).
    shape : {"exp", "step"}
        The fall from class to class; the paper has `exp`.

    Returns
    -------
    ndarray, shape (num_classes,)
        int64.

    Examples
    --------
    >>> long_tail_counts(60000, 10, 20).tolist()
    [6000, 4301, 3083, 2210, 1584, 1135, 814, 583, 418, 300]
    >>> long_tail_counts(500, 5, 20, "step").tolist()
    [100, 100, 100, 5, 5]
    """
    classes = np.arange(num_classes)
    if shape == "step":
        position = (classes >= (num_classes + 1) // 2).astype(np.float64)
    else:
        position = classes / max(num_classes - 1, 1)
    counts = num_images / num_classes * (1 / ratio) ** position
    return np.floor(counts + 1e-9).astype(np.int64)


def long_tail_rows(
    labels: npt.NDArray[np.int64],
    ratio: float,
    generator: np.random.Generator,
    *,
    num_classes: int | None = None,
    shape: Literal["exp", "step"] = "exp",
) -> npt.NDArray[np.int64]:
    """Draw the images that the long tail keeps.

    Parameters
    ----------
    labels : ndarray, shape (N,)
        int64 classes from 0.
    ratio : float
        See `long_tail_counts`. 1 keeps every image, also of unequal classes.
    generator : numpy.random.Generator
        Decides which images of a class are kept.
    num_classes : int, optional
        C; by default up to the last class that occurs.
    shape : {"exp", "step"}
        See `long_tail_counts`.

    Returns
    -------
    ndarray, shape (M,)
        int64 rows of `labels`, ascending. A class with fewer images than its count
        gives all it has.
    """
    if ratio == 1:
        return np.arange(len(labels))
    num_classes = num_classes or int(labels.max()) + 1
    counts = long_tail_counts(len(labels), num_classes, ratio, shape)
    kept = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(kept))
