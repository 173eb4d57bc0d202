"""The image sets that a run can be told to use, by name.

A new one is a `Source` in a module of its own and one line in `SOURCES`.
"""

import logging
from dataclasses import replace
from functools import lru_cache

from fairfal_flwr.data.cifar import CIFAR10, CIFAR100
from fairfal_flwr.data.digits import DIGITS
from fairfal_flwr.data.fashion_mnist import FASHION_MNIST
from fairfal_flwr.data.folder import FOLDER
from fairfal_flwr.data.hugging_face import HUGGING_FACE, PREFIX
from fairfal_flwr.data.image_set import HALF, ImageSet, Source
from fairfal_flwr.data.npz import MEDMNIST, NPZ
from fairfal_flwr.data.pixels import in_channels, resize
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["SOURCES", "find_source", "known_names", "load_image_set", "mean_and_std"]

log = logging.getLogger("fairfal.data")

SOURCES: dict[str, Source] = {
    "digits": DIGITS,
    "fashion-mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    **MEDMNIST,
    "folder": FOLDER,
    "npz": NPZ,
}
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def known_names() -> str:
    """Return what `data.name` may be, in words."""
    return f"{', '.join(SOURCES)}, {PREFIX}NAME"


def find_source(name: str) -> Source:
    """Return the source of an image set.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    if name.startswith(PREFIX):
        return HUGGING_FACE
    if name not in SOURCES:
        raise UserError(f"`data.name` is {name!r}; allowed: {known_names()}.")
    return SOURCES[name]


@lru_cache(maxsize=4)
def load_image_set(spec: ImageSpec) -> ImageSet:
    """Load an image set in the form that is wanted, once per process.

    Raises
    ------
    UserError
        If the name is unknown, or the files are missing, damaged or not as wanted.
    """
    images = _in_form(find_source(spec.name).read(spec), spec)
    mean, std = mean_and_std(
        spec.normalization, images.train_images.shape[1], (images.mean, images.std)
    )
    return replace(images, mean=mean, std=std)


def mean_and_std(
    normalization: str,
    channels: int,
    published: tuple[tuple[float, ...], tuple[float, ...]] = ((HALF,), (HALF,)),
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, by `data.normalization`.

    Parameters
    ----------
    normalization : str
        `auto` takes the published ones, `half` 0.5 for all, `imagenet` those of the
        networks that were trained on ImageNet.
    channels : int
        1 or 3. One number serves all three; of three numbers grey takes the mean.
    published : pair of tuple
        Mean and standard deviation of the image set.
    """
    values = {"imagenet": _IMAGENET, "half": ((HALF,), (HALF,))}.get(
        normalization, published
    )
    mean, std = (_for_channels(value, channels) for value in values)
    return mean, std


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    return (sum(values) / len(values),)


def _in_form(images: ImageSet, spec: ImageSpec) -> ImageSet:
    """Apply `data.channels` and `data.image-size`, and say so."""
    channels, height, width = images.train_images.shape[1:]
    train, test = (
        resize(in_channels(part, spec.channels), spec.image_size)
        for part in (images.train_images, images.test_images)
    )
    if train.shape[1] != channels:
        how = "grey repeated three times" if channels == 1 else "color made grey"
        log.info("data.channels = %d: %s", spec.channels, how)
    if train.shape[2:] != (height, width):
        size = spec.image_size
        log.info("data.image-size = %d: resized from %dx%d", size, width, height)
    return replace(images, train_images=train, test_images=test)
