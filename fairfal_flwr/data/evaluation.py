"""What the server tests on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fairfal_flwr.data.datasets import load_image_set, mean_and_std
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["EvaluationSet", "empty_test_set", "load_test_set"]


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


def load_test_set(images: ImageSpec) -> EvaluationSet:
    """Load the server's test set: whole, and balanced in the paper's sets.

    Raises
    ------
    UserError
        If the image set cannot be loaded or has no test images.
    """
    image_set = load_image_set(images)
    if not len(image_set.test_images):
        raise UserError(
            f"{images.place}, which has no test images for the server; add them, or "
            "set `data.server-test` to false."
        )
    return EvaluationSet(
        images=image_set.test_images,
        labels=image_set.test_labels,
        class_names=image_set.class_names,
        mean=image_set.mean,
        std=image_set.std,
    )


def empty_test_set(images: ImageSpec) -> EvaluationSet:
    """Return what a server without images tests on: none, of the clients' shape.

    Nothing is read: class names, size and channels must be given.

    Raises
    ------
    UserError
        If one of them is missing.
    """
    needed = {
        "class-names": images.class_names,
        "image-size": images.image_size,
        "channels": images.channels,
    }
    if missing := [f"`data.{key}`" for key, value in needed.items() if not value]:
        raise UserError(
            f"`data.server-test` is false, so {', '.join(missing)} must say what the "
            "clients' images are."
        )
    mean, std = mean_and_std(images.normalization, images.channels)
    shape = (0, images.channels, images.image_size, images.image_size)
    return EvaluationSet(
        images=torch.empty(shape, dtype=torch.uint8),
        labels=torch.empty(0, dtype=torch.int64),
        class_names=images.class_names,
        mean=mean,
        std=std,
    )
