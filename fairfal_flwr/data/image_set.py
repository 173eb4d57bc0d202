"""What every source of images gives, and what it is asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

__all__ = ["HALF", "ImageSet", "Request", "Source"]

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
    """

    name: str
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class Request:
    """Which images are wanted, and in which form; see the keys of section `data`.

    Attributes
    ----------
    name : str
        `data.name`.
    folder : str
        Where the files are: `data-dir`, or a node's own `data-path`. Empty looks in
        the usual places of the source.
    class_names : tuple of str
        `data.class-names`; empty takes the source's.
    image_size, channels : int
        `data.image-size` and `data.channels`; 0 leaves the images as they are.
    normalization : str
        `data.normalization`.
    memory_mb : int
        `data.memory-mb`.
    key : str
        What a message calls `folder`.
    """

    name: str
    folder: str = ""
    class_names: tuple[str, ...] = ()
    image_size: int = 0
    channels: int = 0
    normalization: str = "auto"
    memory_mb: int = 2048
    key: str = "data-dir"

    @property
    def path(self) -> Path:
        """The absolute path of `folder`."""
        return Path(self.folder).expanduser().absolute()

    @property
    def place(self) -> str:
        """How a message begins that is about the files."""
        if self.folder:
            return f"`{self.key}` is {self.folder!r}"
        return f"`data.name` is {self.name!r}"


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

    read: Callable[[Request], ImageSet]
    files: Callable[[Request], Iterable[Path]] | None = None
