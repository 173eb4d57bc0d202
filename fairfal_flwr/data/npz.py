"""NumPy archives: your own, and the sets of MedMNIST, which come in the same form.

MedMNIST v2: a Large-Scale Lightweight Benchmark for 2D and 3D Biomedical Image
Classification
    Jiancheng Yang, Rui Shi, Donglai Wei, et al. Scientific Data 10, 41, 2023.

An archive holds `train_images`, `train_labels`, `test_images`, `test_labels`: uint8
images (N, height, width) or (N, height, width, 1 or 3) and integer labels (N,) or
(N, 1). Validation images are left aside, as in the paper.
"""

import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairfal_flwr.data.image_set import HALF, ImageSet, Source
from fairfal_flwr.data.reading import (
    check_class_names,
    check_labels,
    datasets_folder,
    existing_folder,
    reading,
)
from fairfal_flwr.data.specs import ImageSpec
from fairfal_flwr.errors import UserError

__all__ = ["MEDMNIST", "NPZ"]

_SIZES = (64, 128, 224)  # MedMNIST+ has these besides 28
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
_CLASSES: dict[str, tuple[str, ...]] = {
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte"),
        *("lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "breastmnist": ("malignant", "normal or benign"),
    "dermamnist": (
        "actinic keratosis or intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesion",
        *("dermatofibroma", "melanoma", "melanocytic nevus", "vascular lesion"),
    ),
    "octmnist": (
        "choroidal neovascularization",
        "diabetic macular edema",
        *("drusen", "normal"),
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle"),
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    "tissuemnist": (
        "collecting duct or connecting tubule",
        "distal convoluted tubule",
        "glomerular endothelial cells",
        "interstitial endothelial cells",
        *("leukocytes", "podocytes", "proximal tubule segments"),
        "thick ascending limb",
    ),
}


def _read_medmnist(spec: ImageSpec) -> ImageSet:
    """Return a set of MedMNIST, normalized to [-1, 1] (method §2)."""
    names = check_class_names(spec.class_names, _CLASSES[spec.name], spec.name)
    return _read_archive(spec, _medmnist_file(spec), names, needs_test=True)


def _medmnist_file(spec: ImageSpec) -> Path:
    """Return the archive of a set; download it where no folder is given."""
    folder = spec.path if spec.folder else datasets_folder()
    if spec.folder and folder.is_file():
        return folder
    names = [f"{spec.name}.npz"]
    if spec.image_size in _SIZES:
        names.insert(0, f"{spec.name}_{spec.image_size}.npz")
    if spec.folder:
        existing_folder(spec.place, folder)
    for path in (folder / name for name in names):
        if path.is_file():
            return path
    if spec.folder:
        raise UserError(
            f"{spec.place}, but {str(folder)!r} has no {' nor '.join(names)}."
        )
    return _download(spec.name, folder) / f"{spec.name}.npz"


def _download(name: str, folder: Path) -> Path:
    try:
        import medmnist
    except ImportError:
        raise UserError(
            f"`data.name` is {name!r}, but there is no {folder / name}.npz; set "
            f"`data-dir` to the folder of {name}.npz, or install the package medmnist "
            "(pip install 'fairfal-flwr[medmnist]'), which downloads it."
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kind = getattr(medmnist, medmnist.INFO[name]["python_class"])
        kind(split="train", root=str(folder), download=True)
    except Exception as error:  # medmnist wraps what goes wrong in its own ways
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} is not in {folder}, and the download failed ({reason}); set "
            f"`data-dir` to a folder that holds {name}.npz."
        ) from None
    return folder


def _read_npz(spec: ImageSpec) -> ImageSet:
    """Return the images of a person's own archive."""
    return _read_archive(spec, _npz_file(spec), spec.class_names)


def _npz_file(spec: ImageSpec) -> Path:
    """Return the archive that the folder is or holds."""
    path = spec.path
    if not spec.folder:
        raise UserError(
            "`data.name` is 'npz', but no file is given; set `data-dir`, or "
            "`data-path` in a SuperNode's node config."
        )
    if path.is_file():
        return path
    existing_folder(spec.place, path)
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        raise UserError(
            f"{spec.place}, where {len(found)} .npz files lie; name one of them."
        )
    return found[0]


def _read_archive(
    spec: ImageSpec,
    path: Path,
    class_names: tuple[str, ...],
    *,
    needs_test: bool = False,
) -> ImageSet:
    """Read and check an archive.

    Without labels for training they are unknown; without class names there are as many
    classes as the labels say, called 0, 1, ….
    """
    arrays = _load(spec, path)
    has_test = needs_test or "test_images" in arrays or "test_labels" in arrays
    labeled = needs_test or "train_labels" in arrays or not class_names
    needed = ["train_images"] + ["train_labels"] * labeled
    needed += ["test_images", "test_labels"] * has_test
    if missing := [key for key in needed if key not in arrays]:
        raise UserError(
            f"{spec.place}, but {str(path)!r} lacks {', '.join(missing)}; it has "
            f"{', '.join(sorted(arrays)) or 'nothing'}."
        )
    with reading(spec.place, path):
        names = class_names or _count_classes(arrays["train_labels"])
        check = partial(_check_split, arrays, num_classes=len(names))
        train_images, train_labels = check("train", labeled=labeled)
        test_images, test_labels = check("test") if has_test else (None, None)
        if test_images is None or test_labels is None:
            test_images = train_images[:0]
            test_labels = torch.empty(0, dtype=torch.int64)
        if test_images.shape[1:] != train_images.shape[1:]:
            raise ValueError("its images for testing have another shape")
    channels = train_images.shape[1]
    return ImageSet(
        name=spec.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=names,
        mean=(HALF,) * channels,
        std=(HALF,) * channels,
    )


def _load(spec: ImageSpec, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an archive, without those for validation."""
    with reading(spec.place, path):
        try:
            with path.open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise ValueError("it is no .npz archive")
            with np.load(path, allow_pickle=False) as archive:
                keys = [key for key in archive.files if not key.startswith("val_")]
                return {key: archive[key] for key in keys}
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from None


def _count_classes(labels: npt.NDArray[Any]) -> tuple[str, ...]:
    if labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(f"its train_labels are {labels.dtype}, not integers")
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def _check_split(
    arrays: dict[str, npt.NDArray[Any]],
    split: str,
    *,
    num_classes: int,
    labeled: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the images, channels first, and the labels of one split."""
    images = arrays[f"{split}_images"]
    if images.dtype != np.uint8:
        raise ValueError(f"its {split}_images are {images.dtype}, not uint8")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"its {split}_images have the shape {arrays[f'{split}_images'].shape}, "
            "allowed: (N, height, width) and (N, height, width, 1 or 3)"
        )
    planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if not labeled:
        return planes, None
    return planes, check_labels(arrays[f"{split}_labels"], len(planes), num_classes)


def _single(find: Callable[[ImageSpec], Path]) -> Callable[[ImageSpec], Iterable[Path]]:
    return lambda spec: [find(spec)]


MEDMNIST = {
    name: Source(_read_medmnist, _single(_medmnist_file)) for name in sorted(_CLASSES)
}
NPZ = Source(_read_npz, _single(_npz_file))
