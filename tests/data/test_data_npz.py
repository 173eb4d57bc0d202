"""NumPy archives: one's own and MedMNIST's."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_files import write_npz

from fairfal_flwr.data import ImageSpec, load_image_set
from fairfal_flwr.data.npz import MEDMNIST
from fairfal_flwr.errors import UserError

OCT = {"train_labels": np.arange(12)[:, None] % 4, "test_labels": np.arange(6) % 4}


def load(folder, name="npz", **options):
    load_image_set.cache_clear()
    return load_image_set(ImageSpec(name, str(folder), **options))


def test_a_file_or_the_only_file_of_a_folder(tmp_path):
    path = write_npz(tmp_path / "mine.npz")
    for place in (path, tmp_path):
        images = load(place)
        assert images.train_images.shape == (12, 1, 28, 28)
        assert images.test_images.shape == (6, 1, 28, 28)
        assert images.train_images[5].unique().tolist() == [5]
        assert images.train_labels.tolist() == [i % 3 for i in range(12)]
        assert images.train_labels.dtype == torch.int64
        assert images.class_names == ("0", "1", "2")


def test_color_images_are_channels_last_in_the_file(tmp_path):
    pixels = np.zeros((12, 8, 9, 3), np.uint8)
    pixels[..., 2] = 7
    path = write_npz(tmp_path / "a.npz", train_images=pixels, test_images=pixels[:6])
    images = load(path).train_images
    assert images.shape == (12, 3, 8, 9)
    assert images[0, :, 0, 0].tolist() == [0, 0, 7]


def test_test_images_are_not_needed(tmp_path):
    path = write_npz(tmp_path / "a.npz", test_images=None, test_labels=None)
    images = load(path)
    assert images.test_images.shape == (0, 1, 28, 28)
    assert images.test_labels.tolist() == []


def test_labels_are_not_needed_where_the_classes_are_named(tmp_path):
    path = write_npz(tmp_path / "a.npz", train_labels=None)
    images = load(path, class_names=("a", "b", "c"))
    assert images.train_labels is None
    assert images.class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"train_labels": None},
            "lacks train_labels; it has test_images, test_labels,",
        ),
        ({"train_images": None}, "lacks train_images"),
        ({"test_labels": None}, "lacks test_labels"),
        (
            {"train_images": np.zeros((12, 28, 28))},
            "train_images are float64, not uint8",
        ),
        ({"train_images": np.zeros((12, 28), np.uint8)}, r"have the shape \(12, 28\)"),
        (
            {"train_images": np.zeros((12, 3, 28, 28), np.uint8)},
            r"have the shape \(12, 3, 28, 28\), allowed: \(N, height, width\) and",
        ),
        ({"train_labels": np.arange(11) % 3}, r"labels of shape \(11,\) for 12 images"),
        ({"train_labels": np.zeros(12)}, "train_labels are float64, not integers"),
        (
            {"train_labels": np.arange(12) % 3 - 1},
            "labels are -1 to 1, allowed: 0 to 1",
        ),
        ({"test_labels": np.full(6, 3)}, r"labels are 3 to 3, allowed: 0 to 2 \(3 cla"),
        ({"test_images": np.zeros((6, 9, 9), np.uint8)}, "for testing have another"),
        ({"train_labels": np.array([None] * 12)}, "cannot be read: Object arrays"),
    ],
)
def test_wrong_content_is_named(tmp_path, changes, problem):
    path = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=rf"^`data-dir` is .*'{path}' .*{problem}") as e:
        load(path)
    assert "\n" not in str(e.value)


def test_classes_out_of_the_named_ones_are_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    with pytest.raises(
        UserError, match=r"its labels are 0 to 2, allowed: 0 to 1 \(2 c"
    ):
        load(path, class_names=("a", "b"))


@pytest.mark.parametrize("damage", [lambda c: c[:300], lambda c: b"", lambda c: b"PK"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path = write_npz(tmp_path / "a.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"'{path}' cannot be read: .*\.$") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_lone_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"it is no \.npz archive"):
        load(tmp_path / "a.npy")


def test_which_file_is_meant_must_be_clear(tmp_path):
    with pytest.raises(UserError, match="but no file is given"):
        load("")
    with pytest.raises(UserError, match=r"where 0 \.npz files lie; name one of them"):
        load(tmp_path)
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz")
    with pytest.raises(UserError, match=r"where 2 \.npz files lie"):
        load(tmp_path)


def test_a_set_of_medmnist_has_its_names_and_normalization(tmp_path):
    write_npz(tmp_path / "octmnist.npz", **OCT)
    for place in (tmp_path, tmp_path / "octmnist.npz"):
        images = load(place, "octmnist")
        assert images.train_labels.tolist() == [i % 4 for i in range(12)]
        assert images.class_names[2:] == ("drusen", "normal")
        assert (images.mean, images.std) == ((0.5,), (0.5,))


def test_every_set_of_medmnist_has_as_many_names_as_classes():
    counts = {
        **{"bloodmnist": 8, "breastmnist": 2, "dermamnist": 7, "octmnist": 4},
        **{"organamnist": 11, "organcmnist": 11, "organsmnist": 11, "pathmnist": 9},
        **{"pneumoniamnist": 2, "retinamnist": 5, "tissuemnist": 8},
    }
    from fairfal_flwr.data.npz import _CLASSES

    assert {name: len(names) for name, names in _CLASSES.items()} == counts
    assert MEDMNIST.keys() == counts.keys()


def test_medmnist_in_a_larger_size_is_taken_where_it_is_wanted(tmp_path):
    write_npz(tmp_path / "octmnist.npz", **OCT)
    large = {
        f"{split}_images": np.zeros((count, 64, 64), np.uint8)
        for split, count in (("train", 12), ("test", 6))
    }
    write_npz(tmp_path / "octmnist_64.npz", **OCT, **large)
    assert load(tmp_path, "octmnist").train_images.shape[2:] == (28, 28)
    images = load(tmp_path, "octmnist", image_size=64).train_images
    assert images.shape == (12, 1, 64, 64)
    assert images.max() == 0


def test_a_missing_set_of_medmnist_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=rf"'{tmp_path}' has no octmnist.npz\.$"):
        load(tmp_path, "octmnist")
    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(UserError, match=r"or install the package medmnist \(pip inst"):
        load("", "octmnist")


def fake_medmnist(monkeypatch, download):
    def octmnist(split, root, download):
        assert (split, download) == ("train", True)
        fetch(root)

    fetch = download
    info = {"octmnist": {"python_class": "OCTMNIST"}}
    fake = SimpleNamespace(INFO=info, OCTMNIST=octmnist)
    monkeypatch.setitem(sys.modules, "medmnist", fake)


def test_the_package_medmnist_downloads(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path))
    fake_medmnist(
        monkeypatch, lambda root: write_npz(Path(root, "octmnist.npz"), **OCT)
    )
    assert len(load("", "octmnist").train_images) == 12
    monkeypatch.setitem(sys.modules, "medmnist", None)
    assert len(load("", "octmnist").train_images) == 12


def test_a_failed_download_of_medmnist_is_one_line(tmp_path, monkeypatch):
    def refuse(root):
        raise RuntimeError("Something\nwrong")

    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path))
    fake_medmnist(monkeypatch, refuse)
    with pytest.raises(
        UserError, match=r"the download failed \(Something wrong\); set"
    ):
        load("", "octmnist")
