"""Folders of image files, and all that can be wrong with them."""

import logging
import os

import numpy as np
import pytest
import torch
from image_files import picture, write_tree
from PIL import Image

from fairfal_flwr.data import ImageSpec, load_image_set, pictures, reading
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import identity_of


def load(folder, **options):
    load_image_set.cache_clear()
    return load_image_set(ImageSpec("folder", str(folder), **options))


def refused(folder, match, **options):
    with pytest.raises(UserError, match=match) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)


def test_a_tree_is_read_in_the_order_of_its_names(tmp_path):
    images = load(write_tree(tmp_path))
    assert images.class_names == ("cat", "dog")
    assert images.train_images.shape == images.test_images.shape == (5, 3, 12, 12)
    assert images.train_images.dtype == torch.uint8
    assert (
        images.train_labels.tolist() == images.test_labels.tolist() == [0, 0, 0, 1, 1]
    )
    assert images.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 40, 41]
    assert (images.mean, images.std) == ((0.5,) * 3, (0.5,) * 3)


def test_an_image_is_identified_by_its_path_and_its_bytes(tmp_path):
    images = load(write_tree(tmp_path))
    path = tmp_path / "train" / "dog" / "001.png"
    assert images.files[4] == "train/dog/001.png"
    assert images.sample_ids[4] == identity_of("train/dog/001.png", path.read_bytes())
    before = images.sample_ids.tolist()
    os.utime(path, (1, 1))
    (tmp_path / "test" / "cat" / "000.png").unlink()
    assert load(tmp_path).sample_ids.tolist() == before
    path.rename(path.with_name("002.png"))
    assert load(tmp_path).sample_ids.tolist()[:4] == before[:4]
    assert load(tmp_path).sample_ids[4] != before[4]


def test_a_name_that_is_no_text_has_an_identity_too(tmp_path):
    write_tree(tmp_path)
    odd = os.fsdecode(b"\xff.png")
    picture(7).save(tmp_path / "train" / "dog" / odd)
    images = load(tmp_path)
    assert images.files[-1] == f"train/dog/{odd}"
    assert len(set(images.sample_ids.tolist())) == 6


def test_two_images_of_one_identity_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fairfal_flwr.data.folder.identity_of", lambda name, _: int("000" in name)
    )
    refused(
        write_tree(tmp_path, {"cat": 2, "dog": 1}),
        r"'train/cat/000.png' and 'train/dog/000.png' have the same identity by "
        r"chance; rename one of them\.$",
    )


def test_class_names_of_the_config_give_the_numbers(tmp_path):
    images = load(write_tree(tmp_path), class_names=("dog", "cow", "cat"))
    assert images.train_labels.tolist() == [2, 2, 2, 0, 0]
    assert images.num_classes == 3


def test_class_folders_alone_are_a_training_set(tmp_path):
    write_tree(tmp_path, splits=(".",))
    images = load(tmp_path)
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert images.test_images.shape == (0, 3, 12, 12)
    assert images.test_labels.tolist() == []


def test_a_test_set_alone_is_enough_for_a_server(tmp_path):
    images = load(write_tree(tmp_path, splits=("test",)))
    assert images.train_images.shape == (0, 3, 12, 12)
    assert images.test_labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("inside", ["", "train"])
def test_files_without_folders_have_no_labels(tmp_path, inside):
    (tmp_path / inside).mkdir(exist_ok=True)
    for value in range(3):
        picture(value).save(tmp_path / inside / f"{value}.png")
    images = load(tmp_path, class_names=("cat", "dog"))
    assert images.train_labels is None
    assert images.train_images.shape == (3, 3, 12, 12)
    assert images.class_names == ("cat", "dog")


def test_files_below_class_folders_and_hidden_files(tmp_path):
    write_tree(tmp_path)
    nested = tmp_path / "train" / "dog" / "zz" / "deep"
    nested.mkdir(parents=True)
    picture(99).save(nested / "x.png")
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"x")
    assert load(tmp_path).train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 40, 41, 99]


def test_mixed_sizes_name_two_files(tmp_path):
    write_tree(tmp_path)
    odd = tmp_path / "train" / "dog" / "odd.png"
    picture(7, (20, 10)).save(odd)
    refused(
        tmp_path,
        rf"^`data.image-size` is 0, but '{tmp_path}/train/cat/000.png' is 12x12 and "
        rf"'{odd}' is 20x10; set it to the side in pixels",
    )


def test_an_image_size_resizes_all_and_says_so(tmp_path, caplog):
    write_tree(tmp_path)
    picture(7, (20, 10)).save(tmp_path / "train" / "dog" / "odd.png")
    with caplog.at_level(logging.INFO, "fairfal.data"):
        images = load(tmp_path, image_size=8)
    assert images.train_images.shape == (6, 3, 8, 8)
    assert images.test_images.shape == (5, 3, 8, 8)
    assert images.train_images[5].unique().tolist() == [7]
    assert "data.image-size = 8: 11 images converted" in caplog.text


def test_mixed_channels_name_two_files(tmp_path):
    write_tree(tmp_path)
    picture(7, mode="L").save(tmp_path / "test" / "dog" / "grey.png")
    refused(
        tmp_path,
        r"^`data.channels` is 0, but '.*/train/cat/000.png' has 3 channel\(s\) and "
        r"'.*/grey.png' has 1; allowed: 1 \(grey\) or 3 \(RGB\)\.$",
    )


def test_channels_convert_all_and_say_so(tmp_path, caplog):
    write_tree(tmp_path)
    picture(7, mode="L").save(tmp_path / "test" / "dog" / "grey.png")
    with caplog.at_level(logging.INFO, "fairfal.data"):
        color, grey = load(tmp_path, channels=3), load(tmp_path, channels=1)
    assert color.test_images[5, :, 0, 0].tolist() == [7, 7, 7]
    assert grey.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 40, 41]
    assert (color.train_images.shape[1], grey.train_images.shape[1]) == (3, 1)
    assert "data.channels = 3: 1 images converted" in caplog.text
    assert "data.channels = 1: 10 images converted" in caplog.text


def test_grey_is_the_luma_of_pillow():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    from fairfal_flwr.data.pixels import in_channels

    ours = in_channels(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()), 1)
    theirs = np.array(Image.fromarray(pixels).convert("L")).astype(int)
    assert np.abs(ours[0, 0].numpy().astype(int) - theirs).max() <= 1


def test_transparency_is_dropped_and_palettes_are_resolved(tmp_path):
    for name, image in (
        ("a", picture(9, mode="RGBA")),
        ("b", picture(9).quantize(4)),
    ):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
    assert load(tmp_path).train_images[:, :, 3, 3].tolist() == [[9, 9, 9], [9, 9, 9]]


def test_pictures_stand_upright_as_their_camera_says(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "b" / "x.png")
    turned, plain = load(tmp_path).train_images
    assert turned[0, :, 3].tolist() == [200] * 4
    assert plain[0, 0].tolist() == [200] * 4


def damaged(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("suffix", "damage", "problem"),
    [
        ("jpg", damaged, ""),
        ("png", damaged, ""),
        ("bmp", damaged, ""),
        ("png", lambda content: b"hello", "it is no image"),
        ("png", lambda content: b"", "it is no image"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, suffix, damage, problem):
    write_tree(tmp_path)
    path = tmp_path / "train" / "cat" / f"bad.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(damage(path.read_bytes()))
    refused(
        tmp_path,
        rf"^`data-dir` is '{tmp_path}', but '{path}' cannot be read: {problem}",
    )


def test_pixels_of_16_bits_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    picture(7, mode="I;16").save(tmp_path / "a" / "x.png")
    refused(tmp_path, r"its pixels are of the kind 'I;16'; convert it to 8 bits")


def test_a_picture_too_large_to_be_honest_is_refused(tmp_path, monkeypatch):
    write_tree(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    refused(tmp_path, r"000.png' cannot be read: Image size \(144 pixels\) exceeds")


def test_an_empty_class_folder_is_named(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    refused(
        tmp_path, rf"the class folder '{tmp_path}/train/emu' holds no image; fill or"
    )


def test_a_file_beside_class_folders_is_named(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "train" / "labels.csv").write_text("x")
    refused(tmp_path, rf"'{tmp_path}/train/labels.csv' lies beside class folders")


def test_a_class_folder_that_the_config_does_not_know_is_named(tmp_path):
    refused(
        write_tree(tmp_path),
        r"where a class folder is called 'dog'; `data.class-names` allows: cat, cow\.$",
        class_names=("cat", "cow"),
    )


def test_images_without_labels_need_class_names(tmp_path):
    picture(1).save(tmp_path / "a.png")
    refused(tmp_path, r"holds images without class folders; set `data.class-names`")


def test_test_images_need_labels(tmp_path):
    write_tree(tmp_path, splits=("train",))
    (tmp_path / "test").mkdir()
    picture(1).save(tmp_path / "test" / "a.png")
    refused(tmp_path, r"'.*/test' has no class folders; test images need labels\.$")


def test_no_folder_and_no_image(tmp_path):
    refused("", r"^`data.name` is 'folder', but no folder is given; set `data-dir`")
    refused(tmp_path / "x", rf"but there is no folder '{tmp_path}/x'\.$")
    refused(tmp_path, rf"but '{tmp_path}' holds no image", class_names=("a", "b"))
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "x", "there is no folder")


def test_a_forbidden_folder_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fairfal_flwr.data.folder.os.scandir", refuse)
    refused(tmp_path, rf"'{tmp_path}' cannot be read: Permission denied\.$")


def test_images_above_the_limit_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path / "home"))
    images = load(write_tree(tmp_path / "data"), memory_mb=0)
    assert images.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 40, 41]
    assert list((tmp_path / "home").iterdir()) == []  # the file has no name


def test_no_room_for_mapped_images_is_told_before_any_is_read(tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reading, "_reserve", full)
    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path / "home"))
    refused(
        write_tree(tmp_path / "data"),
        r"^`data.memory-mb` is 0, so 0 MiB of images go to a file in .*/home, which "
        r"failed: No space left on device\.$",
        memory_mb=0,
    )
    assert list((tmp_path / "home").iterdir()) == []


def test_nothing_to_stack_is_a_defect():
    with pytest.raises(AssertionError):
        pictures.stack([], ImageSpec("folder"))
