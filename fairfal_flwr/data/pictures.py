"""From single pictures, each of its own size, to one array of images."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairfal_flwr.data.pixels import in_channels, resize
from fairfal_flwr.data.reading import image_buffer
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["Pictures", "stack"]

log = logging.getLogger("fairfal.data")


@dataclass(frozen=True)
class Pictures:
    """Pictures that are decoded one at a time.

    Attributes
    ----------
    names : sequence
        What to call each in a message.
    open : callable
        From the position of a picture to its pixels, (1 or 3, height, width) uint8.
    """

    names: Sequence[Any]
    open: Callable[[int], Tensor]

    def __len__(self) -> int:
        return len(self.names)


def stack(splits: Sequence[Pictures], spec: ImageSpec) -> list[Tensor]:
    """Decode pictures into arrays of one common shape.

    Parameters
    ----------
    splits : sequence of Pictures
        Such as those for training and those for testing. At least one has a picture.
    spec : ImageSpec
        Its size and channels are applied to each picture by itself.

    Returns
    -------
    list of Tensor, shape (N, channels, height, width)
        uint8, one per split.

    Raises
    ------
    UserError
        If two pictures differ in size or channels and the spec does not say what to
        do about it.
    """
    first: tuple[Any, tuple[int, ...]] | None = None
    changed = {"channels": 0, "image-size": 0}
    arrays = []
    for split in splits:
        array: Tensor | None = None
        for position, name in enumerate(split.names):
            raw = split.open(position)
            pixels = _as_wanted(raw, spec)
            shape = tuple(pixels.shape)
            changed["channels"] += raw.shape[0] != shape[0]
            changed["image-size"] += raw.shape[1:] != pixels.shape[1:]
            first = first or (name, shape)
            if shape != first[1]:
                raise _mixed(first, (name, shape))
            if array is None:
                buffer = image_buffer((len(split), *shape), spec.memory_mb)
                array = torch.from_numpy(buffer)
            array[position] = pixels
        arrays.append(array)
    assert first is not None, "no pictures at all"
    for key, value in (
        ("channels", spec.channels),
        ("image-size", spec.image_size),
    ):
        if changed[key]:
            log.info("data.%s = %d: %d images converted", key, value, changed[key])
    empty = torch.empty((0, *first[1]), dtype=torch.uint8)
    return [empty if array is None else array for array in arrays]


def _as_wanted(pixels: Tensor, spec: ImageSpec) -> Tensor:
    image = in_channels(pixels[None], spec.channels)
    return resize(image, spec.image_size)[0]


def _mixed(
    first: tuple[Any, tuple[int, ...]], other: tuple[Any, tuple[int, ...]]
) -> UserError:
    (name, (channels, height, width)), (other_name, shape) = first, other
    if channels != shape[0]:
        return UserError(
            f"`data.channels` is 0, but {str(name)!r} has {channels} channel(s) and "
            f"{str(other_name)!r} has {shape[0]}; allowed: 1 (grey) or 3 (RGB)."
        )
    return UserError(
        f"`data.image-size` is 0, but {str(name)!r} is {width}x{height} and "
        f"{str(other_name)!r} is {shape[2]}x{shape[1]}; set it to the side in pixels "
        "that all shall have."
    )
