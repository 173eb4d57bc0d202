"""Folders of image files.

Understood are, under `data-dir` or a node's `data-path`:

- `train/<class>/…` and `test/<class>/…`, either of them alone too;
- `<class>/…` without a test set;
- image files and no folders, here or in `train/`: images without labels, with
  `data.class-names` to say what they may be.

Hidden files are passed over; every other file must be an image. A training image is
identified by its path below the folder and its bytes, so others may come and go.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.image_set import HALF, ImageSet, Source
from fairfal_flwr.data.pictures import Pictures, stack
from fairfal_flwr.data.pixels import open_image
from fairfal_flwr.data.reading import existing_folder, reading
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import identity_of

__all__ = ["FOLDER"]

_PASSED_OVER = {"Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class _Split:
    """The files of one split; `labels` is None where there are no class folders."""

    files: tuple[Path, ...] = ()
    labels: tuple[str, ...] | None = ()


def _read(spec: ImageSpec) -> ImageSet:
    """Return the images below the folder."""
    root = _root(spec)
    with reading(spec.place, root):
        train, test = _splits(spec, root)
    if test.labels is None:
        raise UserError(
            f"{spec.place}, but {str(root / 'test')!r} has no class folders; test "
            "images need labels."
        )
    if not train.files and not test.files:
        raise UserError(f"{spec.place}, but {str(root)!r} holds no image.")
    names = _class_names(spec, train, test)
    files = tuple(path.relative_to(root).as_posix() for path in train.files)
    sample_ids = np.zeros(len(files), dtype=np.int64)

    def identify(position: int, content: bytes) -> None:
        sample_ids[position] = identity_of(files[position], content)

    train_images, test_images = stack(
        [_pictures(spec, train, identify), _pictures(spec, test)], spec
    )
    _check_distinct(spec, sample_ids, files)
    channels = train_images.shape[1]
    return ImageSet(
        name=spec.name,
        train_images=train_images,
        train_labels=None if train.labels is None else _numbers(train.labels, names),
        test_images=test_images,
        test_labels=_numbers(test.labels, names),
        class_names=names,
        mean=(HALF,) * channels,
        std=(HALF,) * channels,
        sample_ids=sample_ids,
        files=files,
    )


def _root(spec: ImageSpec) -> Path:
    if not spec.folder:
        raise UserError(
            "`data.name` is 'folder', but no folder is given; set `data-dir`, or "
            "`data-path` in a SuperNode's node config."
        )
    existing_folder(spec.place, spec.path)
    return spec.path


def _splits(spec: ImageSpec, root: Path) -> tuple[_Split, _Split]:
    folders = {path.name for path in _visible(root) if path.is_dir()}
    if not folders & {"train", "test"}:
        return _split(spec, root), _Split()
    parts = [
        _split(spec, root / name) if name in folders else _Split()
        for name in ("train", "test")
    ]
    return parts[0], parts[1]


def _split(spec: ImageSpec, root: Path) -> _Split:
    """Return the files of a folder that holds class folders, or files alone."""
    entries = _visible(root)
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        return _Split(tuple(entries), None)
    if len(folders) != len(entries):
        stray = next(path for path in entries if not path.is_dir())
        raise UserError(
            f"{spec.place}, but {str(stray)!r} lies beside class folders; move it "
            "into one, or away."
        )
    files, labels = [], []
    for folder in folders:
        found = list(_files_below(folder))
        if not found:
            raise UserError(
                f"{spec.place}, but the class folder {str(folder)!r} holds no "
                "image; fill or remove it."
            )
        files += found
        labels += [folder.name] * len(found)
    return _Split(tuple(files), tuple(labels))


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name, without hidden files."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name not in _PASSED_OVER
        )
    return [folder / name for name in names]


def _files_below(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def _class_names(spec: ImageSpec, train: _Split, test: _Split) -> tuple[str, ...]:
    """Return `data.class-names`, or else the names of the class folders."""
    found = sorted({*(train.labels or ()), *(test.labels or ())})
    if not spec.class_names:
        if train.labels is None:
            raise UserError(
                f"{spec.place}, which holds images without class folders; set "
                "`data.class-names` to the classes they may be, such as 'cat,dog'."
            )
        return tuple(found)
    if unknown := [name for name in found if name not in spec.class_names]:
        raise UserError(
            f"{spec.place}, where a class folder is called {unknown[0]!r}; "
            f"`data.class-names` allows: {', '.join(spec.class_names)}."
        )
    return spec.class_names


def _pictures(
    spec: ImageSpec,
    split: _Split,
    identify: Callable[[int, bytes], None] = lambda position, content: None,
) -> Pictures:
    """Return pictures; `identify` is told the bytes that each is decoded from."""

    def read(position: int) -> Tensor:
        path = split.files[position]
        with reading(spec.place, path):
            content = path.read_bytes()
            identify(position, content)
            return open_image(content)

    return Pictures(split.files, read)


def _check_distinct(
    spec: ImageSpec, sample_ids: npt.NDArray[np.int64], files: tuple[str, ...]
) -> None:
    order = np.argsort(sample_ids, kind="stable")
    twice = np.flatnonzero(np.diff(sample_ids[order]) == 0)
    if len(twice):
        first, second = (files[position] for position in order[twice[0] :][:2])
        raise UserError(
            f"{spec.place}, but {first!r} and {second!r} have the same identity by "
            "chance; rename one of them."
        )


def _numbers(labels: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
    """Return labels as numbers."""
    number = {name: position for position, name in enumerate(names)}
    return torch.tensor([number[name] for name in labels], dtype=torch.int64)


def _files(spec: ImageSpec) -> Iterator[Path]:
    return _files_below(_root(spec))


FOLDER = Source(_read, _files)
