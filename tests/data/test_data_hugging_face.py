"""Sets of Hugging Face from a folder of save_to_disk; nothing is fetched.

Slow for its imports.
"""

import pytest
from image_files import picture

from fairfal_flwr.data import ImageSpec, load_image_set
from fairfal_flwr.errors import UserError

pytestmark = pytest.mark.slow


def dataset(count=4, *, label="label", names=("cat", "dog"), size=(12, 12)):
    from datasets import ClassLabel, Dataset, Features, Image, Value

    kind = ClassLabel(names=list(names)) if names else Value("int64")
    columns = {
        "id": list(range(count)),
        "picture": [picture(value, size) for value in range(count)],
        label: [value % 2 for value in range(count)],
    }
    features = {"id": Value("int64"), "picture": Image(), label: kind}
    return Dataset.from_dict(columns, features=Features(features))


def save(path, **splits):
    from datasets import DatasetDict

    DatasetDict(splits).save_to_disk(str(path))
    return path


def load(folder, name="hf:owner/pets", **options):
    load_image_set.cache_clear()
    return load_image_set(ImageSpec(name, str(folder), **options))


def test_a_saved_set_is_read_without_a_network(tmp_path):
    images = load(save(tmp_path / "a", train=dataset(), test=dataset(2)))
    assert images.class_names == ("cat", "dog")
    assert images.train_images.shape == (4, 3, 12, 12)
    assert images.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert images.train_labels.tolist() == [0, 1, 0, 1]
    assert images.test_labels.tolist() == [0, 1]


def test_one_split_without_a_name_is_for_training(tmp_path):
    dataset(label="fine_label").save_to_disk(str(tmp_path / "a"))
    images = load(tmp_path / "a")
    assert len(images.train_images) == 4
    assert len(images.test_images) == len(images.test_labels) == 0


def test_integers_are_labels_where_the_classes_are_named(tmp_path):
    path = save(tmp_path / "a", train=dataset(names=()))
    assert load(path, class_names=("a", "b")).class_names == ("a", "b")
    with pytest.raises(UserError, match=r"column 'label' has no class names; set `da"):
        load(path)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(UserError, match=r"which has no split 'train'; it has: dev"):
        load(save(tmp_path / "a", dev=dataset()))
    with pytest.raises(UserError, match=r"whose columns are id, picture, x; it needs"):
        load(save(tmp_path / "b", train=dataset(label="x", names=())))
    with pytest.raises(UserError, match=r"has 3 names, but hf:owner/pets has 2 c"):
        load(save(tmp_path / "c", train=dataset()), class_names=("a", "b", "c"))
    with pytest.raises(UserError, match=r"`data.image-size` is 0, but 'hf:owner/pets"):
        load(save(tmp_path / "d", train=dataset(), test=dataset(size=(9, 9))))
    (tmp_path / "e").mkdir()
    with pytest.raises(UserError, match=rf"but '{tmp_path}/e' cannot be") as error:
        load(tmp_path / "e")
    assert "\n" not in str(error.value)


def test_a_damaged_picture_is_named_by_its_row(tmp_path, monkeypatch):
    path = save(tmp_path / "a", train=dataset())

    def fail(image):
        raise OSError("image file is truncated")

    monkeypatch.setattr("fairfal_flwr.data.hugging_face.decode", fail)
    with pytest.raises(UserError, match="'hf:owner/pets row 0' cannot be read: image"):
        load(path)


def test_the_hub_is_asked_for_a_name_and_a_revision(monkeypatch):
    import datasets

    asked = []

    def fetch(name, revision):
        asked.append((name, revision))
        return datasets.DatasetDict(train=dataset())

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    assert len(load("", "hf:owner/pets@v1.0").train_images) == 4
    load("", "hf:pets")
    assert asked == [("owner/pets", "v1.0"), ("pets", None)]


def test_a_set_that_cannot_be_fetched_is_one_line(monkeypatch):
    import datasets

    def fail(name, revision):
        raise ConnectionError("Couldn't reach 'owner/pets' on the Hub\nTraceback ...")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UserError,
        match=r"^`data.name` is 'hf:owner/pets', but the set could not be fetched "
        r"\(Couldn't reach 'owner/pets' on the Hub\); check the name",
    ):
        load("")
    with pytest.raises(UserError, match=r"allowed: hf:<owner>/<set>, optionally with"):
        load("", "hf:../secrets")
