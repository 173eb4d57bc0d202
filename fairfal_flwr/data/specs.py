"""What determines a client's images: which there are, and how they are dealt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["ImageSpec", "PartitionSpec"]


@dataclass(frozen=True)
class ImageSpec:
    """Which images are wanted, and in which form; see the keys of section `data`.

    Attributes
    ----------
    name : str
        `data.name`.
    folder : str
        Where the files are. Empty looks in the usual places of the source.
    class_names : tuple of str
        `data.class-names`; empty takes the source's.
    image_size, channels : int
        `data.image-size` and `data.channels`; 0 leaves the images as they are.
    normalization : str
        `data.normalization`.
    memory_mb : int
        `data.memory-mb`.
    of_one_client : bool
        Whether the folder is a node's own `data-path`: all of its images are that
        client's shard. Else it is `data-dir`, which is dealt to the clients.
    """

    name: str
    folder: str = ""
    class_names: tuple[str, ...] = ()
    image_size: int = 0
    channels: int = 0
    normalization: str = "auto"
    memory_mb: int = 2048
    of_one_client: bool = False

    @property
    def path(self) -> Path:
        """The absolute path of `folder`."""
        return Path(self.folder).expanduser().absolute()

    @property
    def place(self) -> str:
        """How a message begins that is about the files."""
        if self.folder:
            key = "data-path" if self.of_one_client else "data-dir"
            return f"`{key}` is {self.folder!r}"
        return f"`data.name` is {self.name!r}"


@dataclass(frozen=True)
class PartitionSpec:
    """How images are dealt to clients; by default one client gets them all.

    Attributes
    ----------
    num_clients : int
        `num-clients`.
    seed : int
        Of the long tail.
    partition_seed : int
        Of the deal.
    long_tail : {"exp", "step"}
        `data.long-tail`.
    imbalance_ratio : float
        `data.imbalance-ratio`; 1 keeps all images.
    partitioner : str
        `data.partitioner`.
    alpha : float
        `data.alpha`.
    classes_per_client : int
        `data.classes-per-client`.
    """

    num_clients: int = 1
    seed: int = 0
    partition_seed: int = 0
    long_tail: Literal["exp", "step"] = "exp"
    imbalance_ratio: float = 1.0
    partitioner: str = "balanced-dirichlet"
    alpha: float = 0.1
    classes_per_client: int = 2
