"""CIFAR from its published files, and from files that mean harm."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_files import python2_pickle, write_cifar

from fairfal_flwr.data import ImageSpec, load_image_set
from fairfal_flwr.errors import UserError


def load(folder, name="cifar10", **options):
    load_image_set.cache_clear()
    return load_image_set(ImageSpec(name, str(folder), **options))


@pytest.mark.parametrize(
    ("name", "num_classes", "train"), [("cifar10", 10, 100), ("cifar100", 100, 20)]
)
def test_images_labels_and_names_come_out_of_python_2_pickles(
    tmp_path, name, num_classes, train
):
    write_cifar(tmp_path, num_classes)
    images = load(tmp_path, name)
    assert images.train_images.shape == (train, 3, 32, 32)
    assert images.test_images.shape == (20, 3, 32, 32)
    assert images.train_images.dtype == torch.uint8
    assert images.train_images[7, :, 30, 31].tolist() == [7, 8, 9]
    assert images.train_labels[:20].tolist() == [i % num_classes for i in range(20)]
    assert images.test_labels.dtype == torch.int64
    assert images.class_names[9] == "class 9"
    assert images.num_classes == num_classes


def test_normalization_is_the_paper_s(tmp_path):
    write_cifar(tmp_path)
    images = load(tmp_path)
    assert (images.mean, images.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    write_cifar(tmp_path, 100)
    images = load(tmp_path, "cifar100")
    assert (images.mean, images.std) == ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))


def test_the_folder_of_the_archive_itself_will_do(tmp_path):
    write_cifar(tmp_path)
    assert len(load(tmp_path / "cifar-10-batches-py").train_images) == 100


def test_pickles_of_python_3_are_read_too(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    content = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9]}
    path.write_bytes(pickle.dumps(content))
    assert load(tmp_path).test_labels.tolist() == [0, 9]


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps({"data": Harm(tmp_path / "harm"), "labels": []}))
    with pytest.raises(
        UserError,
        match=rf"^`data-dir` is '{tmp_path}', but '{path}' cannot be read: it is no "
        r"batch of CIFAR: it would call \w+\.open\.$",
    ):
        load(tmp_path)
    assert not (tmp_path / "harm").exists()


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (python2_pickle({"data": PIXELS, "labels": [0, 1]})[:-30], "it is no batch"),
        (b"", "it is cut short"),
        (b"<html>", "it is no batch of CIFAR"),
        (python2_pickle({"data": PIXELS}), "it lacks the keys data, labels"),
        (python2_pickle([1]), "it lacks the keys"),
        (
            python2_pickle({"data": PIXELS[:, :5], "labels": [0, 1]}),
            "its `data` is not an array of 3072 bytes an image",
        ),
        (
            python2_pickle({"data": PIXELS, "labels": [0]}),
            r"labels of shape \(1,\) for 2 images",
        ),
        (
            python2_pickle({"data": PIXELS, "labels": [0, 10]}),
            r"its labels are 0 to 10, allowed: 0 to 9 \(10 classes\)",
        ),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, content, problem):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"'{path}' cannot be read: {problem}"
    ) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_4, files of the unpacked"):
        load(tmp_path)


def test_a_failed_download_says_where_the_files_belong(tmp_path, monkeypatch):
    import sys

    def refuse(root, download):
        raise RuntimeError("no\nroute")

    fake = SimpleNamespace(datasets=SimpleNamespace(CIFAR10=refuse))
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path))
    with pytest.raises(
        UserError,
        match=rf"^CIFAR10 is not in {tmp_path}/datasets/cifar-10-batches-py, and the "
        r"download failed \(no route\); set `data-dir`",
    ):
        load("")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_other_class_names_are_refused(tmp_path):
    write_cifar(tmp_path)
    with pytest.raises(UserError, match=r"^`data.class-names` is 'a,b', but the class"):
        load(tmp_path, class_names=("a", "b"))
