"""Image sets of Hugging Face: `hf:<name>`, such as `hf:ylecun/mnist`.

The name may end in `@<revision>`. With `data-dir` (or a node's `data-path`) nothing is
fetched: that folder holds what `save_to_disk` of the package datasets wrote. The first
column of images and the column of class labels are found by their types.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairfal_flwr.data.image_set import HALF, ImageSet, Source
from fairfal_flwr.data.pictures import Pictures, stack
from fairfal_flwr.data.pixels import decode
from fairfal_flwr.data.reading import check_labels, existing_folder, reading
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["HUGGING_FACE", "PREFIX"]

PREFIX = "hf:"
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@[\w./-]+)?")
_LABEL_NAMES = ("label", "labels", "fine_label")


def _read(spec: ImageSpec) -> ImageSet:
    """Return the splits `train` and `test` of a set."""
    splits = _load(spec)
    if "train" not in splits:
        raise UserError(
            f"{spec.place}, which has no split 'train'; it has: "
            f"{', '.join(splits) or 'none'}."
        )
    image, label = _columns(spec, splits["train"])
    names = _class_names(spec, splits["train"], label)
    train, test = splits["train"], splits.get("test", splits["train"].select([]))
    train_images, test_images = stack(
        [_pictures(spec, part, image) for part in (train, test)], spec
    )
    channels = train_images.shape[1]
    return ImageSet(
        name=spec.name,
        train_images=train_images,
        train_labels=_labels(spec, train, label, len(names)),
        test_images=test_images,
        test_labels=_labels(spec, test, label, len(names)),
        class_names=names,
        mean=(HALF,) * channels,
        std=(HALF,) * channels,
    )


def _load(spec: ImageSpec) -> dict[str, Any]:
    """Return the splits, from a folder or from the hub."""
    import datasets

    if spec.folder:
        existing_folder(spec.place, spec.path)
        with reading(spec.place, spec.path):
            loaded = datasets.load_from_disk(str(spec.path))
    else:
        loaded = _fetch(spec)
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _fetch(spec: ImageSpec) -> Any:
    import datasets

    name = spec.name.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{spec.place}; allowed: hf:<owner>/<set>, optionally with @<revision>."
        )
    name, _, revision = name.partition("@")
    try:
        return datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # the hub's client fails in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{spec.place}, but the set could not be fetched ({lines[0]}); check "
            "the name and the connection, or set `data-dir` to a folder that "
            "save_to_disk wrote."
        ) from None


def _columns(spec: ImageSpec, dataset: Any) -> tuple[str, str]:
    """Return the names of the columns with the images and with the labels."""
    from datasets import ClassLabel, Image, Value

    features = dataset.features
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    numbers = [
        name
        for name, kind in features.items()
        if isinstance(kind, Value) and "int" in kind.dtype and name in _LABEL_NAMES
    ]
    labels = [name for name in _LABEL_NAMES if name in classes] or classes or numbers
    if not images or not labels:
        raise UserError(
            f"{spec.place}, whose columns are {', '.join(features)}; it needs one "
            "of images and one of class labels."
        )
    return images[0], labels[0]


def _class_names(spec: ImageSpec, dataset: Any, label: str) -> tuple[str, ...]:
    names = tuple(getattr(dataset.features[label], "names", None) or ())
    if not names and not spec.class_names:
        raise UserError(
            f"{spec.place}, whose column {label!r} has no class names; set "
            "`data.class-names`."
        )
    if names and spec.class_names and len(names) != len(spec.class_names):
        raise UserError(
            f"`data.class-names` has {len(spec.class_names)} names, but "
            f"{spec.name} has {len(names)} classes: {', '.join(names)}."
        )
    return spec.class_names or names


def _pictures(spec: ImageSpec, dataset: Any, image: str) -> Pictures:
    def read(position: int) -> Tensor:
        with reading(spec.place, names[position]):
            return decode(dataset[position][image])

    names = [f"{spec.name} row {row}" for row in range(len(dataset))]
    return Pictures(names, read)


def _labels(spec: ImageSpec, dataset: Any, label: str, num_classes: int) -> Tensor:
    if not len(dataset):
        return torch.empty(0, dtype=torch.int64)
    values = np.asarray(dataset.with_format("numpy")[label][:])
    with reading(spec.place, f"{spec.name} column {label}"):
        return check_labels(values, len(dataset), num_classes)


def _files(spec: ImageSpec) -> list[Path]:
    """Return the files on disk; a set of the hub counts as fixed by its name."""
    if not spec.folder:
        return []
    existing_folder(spec.place, spec.path)
    return sorted(path for path in spec.path.rglob("*") if path.is_file())


HUGGING_FACE = Source(_read, _files)
