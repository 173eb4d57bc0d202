"""Small files in the formats of the real image sets."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: texts as bytes, NumPy under its old name."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def _save_text(self, text: bytes | str) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = dispatch[str] = _save_text

    def save_global(self, obj: Any, name: str | None = None) -> None:
        names = {"_reconstruct": "numpy.core.multiarray"}
        module = names.get(obj.__name__, "numpy")
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())

    dispatch[type] = dispatch[type(len)] = dispatch[type(lambda: 0)] = save_global


def python2_pickle(content: Any) -> bytes:
    """Return a pickle of protocol 2 as Python 2 writes it."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_cifar(folder: Path, num_classes: int = 10, per_batch: int = 20) -> None:
    """Write CIFAR-10 (five batches) or CIFAR-100 (one) of `per_batch` images each.

    Image i of a batch has the class i modulo the classes and the byte i everywhere in
    red, i + 1 in green and i + 2 in blue.
    """
    if num_classes == 10:
        folder = folder / "cifar-10-batches-py"
        batches = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
        meta, labels, names = "batches.meta", "labels", "label_names"
    else:
        folder = folder / "cifar-100-python"
        batches, meta = ["train", "test"], "meta"
        labels, names = "fine_labels", "fine_label_names"
    folder.mkdir(parents=True)
    numbers = np.arange(per_batch)
    planes = [np.repeat((numbers + c)[:, None], 1024, axis=1) for c in range(3)]
    pixels = np.concatenate(planes, axis=1).astype(np.uint8)
    classes = (numbers % num_classes).tolist()
    for batch in batches:
        content = {"data": pixels, labels: classes, "batch_label": batch}
        (folder / batch).write_bytes(python2_pickle(content))
    content = {names: [f"class {number}" for number in range(num_classes)]}
    (folder / meta).write_bytes(python2_pickle(content))


def picture(value: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Any:
    """Return an image of one color; `size` is width and height."""
    color = value if mode in ("L", "I;16") else (value,) * len(mode)
    return Image.new(mode, size, color)


def write_tree(
    root: Path,
    classes: dict[str, int] | None = None,
    *,
    splits: tuple[str, ...] = ("train", "test"),
    size: tuple[int, int] = (12, 12),
    mode: str = "RGB",
) -> Path:
    """Write PNG files: `classes` says how many of each class a split has."""
    for split in splits:
        for number, (name, count) in enumerate(
            (classes or {"cat": 3, "dog": 2}).items()
        ):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = picture(40 * number + index, size, mode)
                image.save(folder / f"{index:03d}.png")
    return root


def write_npz(path: Path, **changes: Any) -> Path:
    """Write an archive in MedMNIST's form: 12 grey images to train, 6 to test.

    `changes` replace arrays; None leaves one out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 12), ("val", 3), ("test", 6)):
        numbers = np.arange(count)
        images = np.broadcast_to(numbers[:, None, None], (count, 28, 28))
        arrays[f"{split}_images"] = images.astype(np.uint8)
        arrays[f"{split}_labels"] = (numbers % 3)[:, None].astype(np.uint8)
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path
