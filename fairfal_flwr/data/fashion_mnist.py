"""Find, read and, as a last resort, download the four files of Fashion-MNIST.

Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms
    Han Xiao, Kashif Rasul, Roland Vollgraf. arXiv:1708.07747, 2017.

torchvision's reader takes neither the gzipped files of Debian's package nor notices a
file that is cut short, and importing it costs seconds; so it serves for the download
only, and its folder layout (`FashionMNIST/raw`) is understood.
"""

import gzip
import struct
from contextlib import suppress
from http.client import HTTPException
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fairfal_flwr.data.image_set import ImageSet, Source
from fairfal_flwr.data.reading import check_class_names, datasets_folder, reading
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["CLASS_NAMES", "FASHION_MNIST", "read_fashion_mnist"]

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = tuple(
    f"{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_SIDE = 28


def read_fashion_mnist(data_dir: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the images and labels of Fashion-MNIST.

    Parameters
    ----------
    data_dir : str
        A folder that holds the four IDX files, gzipped or plain, itself or in
        `FashionMNIST/raw`. No other place is tried then. Empty looks in Debian's
        package `dataset-fashion-mnist`, then in the per-user data folder, and
        downloads into the latter.

    Returns
    -------
    tuple of Tensor
        Training images (N, 1, 28, 28) uint8 and labels (N,) int64, then those for
        testing.

    Raises
    ------
    UserError
        If a file is missing, unreadable, cut short or not what it should be.
    """
    folder, place = _locate(data_dir)
    train_images, train_labels = _read_split(folder, FILES[0], FILES[1], place)
    test_images, test_labels = _read_split(folder, FILES[2], FILES[3], place)
    return train_images, train_labels, test_images, test_labels


def _locate(data_dir: str) -> tuple[Path, str]:
    """Return the folder of the files, and how a message about it begins."""
    if data_dir:
        place = f"`data-dir` is {data_dir!r}"
        return _given_folder(Path(data_dir).expanduser().absolute(), place), place
    folder = _usual_folder()
    return folder, f"Fashion-MNIST is in {str(folder)!r}"


def _given_folder(root: Path, place: str) -> Path:
    """Return the folder in or under `root` that holds all files."""
    with reading(place, root):
        if not root.is_dir():
            raise UserError(f"{place}, but there is no folder {str(root)!r}.")
        raw = root / "FashionMNIST" / "raw"
        folder = raw if raw.is_dir() else root
        if missing := _missing(folder):
            raise UserError(
                f"{place}, but {str(folder)!r} lacks {', '.join(missing)} "
                "(each may be gzipped, with the ending .gz)."
            )
        return folder


def _usual_folder() -> Path:
    """Return the folder of an installed or downloaded copy; download if need be."""
    root = datasets_folder()
    downloaded = root / "FashionMNIST" / "raw"
    for folder in (DEBIAN_FOLDER, downloaded):
        if not _missing(folder):
            return folder
    try:
        _download(root)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Fashion-MNIST is neither in {DEBIAN_FOLDER} nor in {downloaded}, and "
            f"the download failed ({reason}); install it with `apt-get install "
            "dataset-fashion-mnist`, or set `data-dir` to a folder that holds its "
            "files."
        ) from None
    return downloaded


def _download(root: Path) -> None:
    """Download into `root/FashionMNIST/raw`: all files at once or none."""
    from torchvision.datasets import FashionMNIST

    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root) as scratch:
        FashionMNIST(scratch, download=True)
        with suppress(OSError):  # another process has finished first
            Path(scratch, "FashionMNIST").rename(root / "FashionMNIST")
    if missing := _missing(root / "FashionMNIST" / "raw"):
        raise RuntimeError(f"an incomplete folder is in its place: no {missing[0]}")


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if _find(folder, name) is None]


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _read_split(
    folder: Path, image_file: str, label_file: str, place: str
) -> tuple[Tensor, Tensor]:
    """Read and check the images and labels of one split."""
    image_path, label_path = _find(folder, image_file), _find(folder, label_file)
    assert image_path is not None
    assert label_path is not None
    with reading(place, image_path):
        images = _read_idx(image_path, num_dims=3)
        if images.shape[1:] != (_SIDE, _SIDE):
            raise ValueError(f"its images are not {_SIDE}x{_SIDE}")
    with reading(place, label_path):
        labels = _read_idx(label_path, num_dims=1).long()
        if len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
        if len(labels) == 0 or labels.max() >= len(CLASS_NAMES):
            raise ValueError(f"its labels are not in 0..{len(CLASS_NAMES) - 1}")
    return images.unsqueeze(1), labels


def _read_idx(path: Path, num_dims: int) -> Tensor:
    """Read an IDX file of bytes: 0 0 8 dims, big-endian sizes, then the values."""
    raw = path.read_bytes()
    content = bytearray(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    offset = 4 + 4 * num_dims
    if bytes(content[:4]) != bytes([0, 0, 8, num_dims]):
        raise ValueError(f"it is no IDX file of bytes in {num_dims} dimension(s)")
    if len(content) < offset:
        raise EOFError
    shape = struct.unpack(f">{num_dims}I", content[4:offset])
    if len(content) < offset + prod(shape):
        raise EOFError
    if len(content) > offset + prod(shape):
        raise ValueError("it is longer than its header says")
    return torch.frombuffer(content, dtype=torch.uint8)[offset:].view(shape)


def _read(spec: ImageSpec) -> ImageSet:
    """Return Fashion-MNIST, normalized as method §2 says."""
    train_images, train_labels, test_images, test_labels = read_fashion_mnist(
        spec.folder
    )
    return ImageSet(
        name=spec.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=check_class_names(spec.class_names, CLASS_NAMES, spec.name),
        mean=(0.286,),
        std=(0.353,),
    )


def _files(spec: ImageSpec) -> list[Path]:
    folder, _ = _locate(spec.folder)
    return [path for name in FILES if (path := _find(folder, name))]


FASHION_MNIST = Source(_read, _files)
