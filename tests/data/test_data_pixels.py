"""The pixels of a shard are those of the files, read here in another way."""

import csv
import gzip
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import write_npz
from PIL import Image

from fairfal_flwr.data import (
    ImageSpec,
    PartitionSpec,
    ShardCache,
    load_image_set,
    load_shard,
    load_test_set,
)
from fairfal_flwr.data.pixels import in_channels, resize

THREE_CLIENTS = PartitionSpec(num_clients=3, alpha=1.0)


def digits_of_the_file() -> tuple[list, list]:
    """Return (label, bytes) of the images for training and for testing, one by one."""
    folder = Path(find_spec("sklearn").submodule_search_locations[0])
    rows: dict[int, list[int]] = {label: [] for label in range(10)}
    images = []
    with gzip.open(folder / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        for number, line in enumerate(csv.reader(file)):
            *pixels, label = (int(float(text)) for text in line)
            bright = [int(value / 16 * 255 + 0.5) for value in pixels]
            lines = [bright[start : start + 8] for start in range(0, 64, 8)]
            wide = [[value for value in line for _ in "ab"] for line in lines]
            tall = bytes(chain.from_iterable(line + line for line in wide))
            images.append((label, tall))
            rows[label].append(number)
    for_testing = {
        places[pick * len(places) // 36]
        for places in rows.values()
        for pick in range(36)
    }
    train = [image for row, image in enumerate(images) if row not in for_testing]
    return train, [images[row] for row in sorted(for_testing)]


def as_pairs(images: torch.Tensor, labels: torch.Tensor) -> list:
    pairs = zip(labels.tolist(), images, strict=True)
    return [(label, bytes(image.flatten().tolist())) for label, image in pairs]


def test_the_digits_of_all_clients_are_those_of_the_file():
    train, test = digits_of_the_file()
    tested = []
    for client in range(3):
        shard, labels = load_shard(ImageSpec("digits"), THREE_CLIENTS, client)
        assert as_pairs(shard.images, labels) == [
            train[row] for row in shard.sample_ids
        ]
        tested += as_pairs(shard.test_images, shard.test_labels)
    assert sorted(tested) == sorted(test)
    test_set = load_test_set(ImageSpec("digits"))
    assert as_pairs(test_set.images, test_set.labels) == test


@pytest.fixture
def noise(tmp_path):
    """Return random color images for training and testing, and their archive."""
    generator = np.random.default_rng(0)
    train, test = (
        generator.integers(0, 256, (count, 10, 14, 3), dtype=np.uint8)
        for count in (12, 6)
    )
    load_image_set.cache_clear()
    path = write_npz(tmp_path / "set.npz", train_images=train, test_images=test)
    return train, test, ImageSpec("npz", str(path))


@pytest.mark.parametrize("memory_mb", [0, 8])
@pytest.mark.parametrize("kept", [False, True])
def test_an_archive_reaches_the_clients_pixel_by_pixel(
    tmp_path, noise, memory_mb, kept
):
    train, test, images = noise
    cache = ShardCache(tmp_path / "shards", limit_mb=8 * kept, memory_mb=memory_mb)
    unseen = test.transpose(0, 3, 1, 2).tolist()
    for client in chain(range(3), range(3)):  # the second time from the cache
        shard, _ = load_shard(images, THREE_CLIENTS, client, cache=cache)
        for row, image in zip(shard.sample_ids, shard.images.numpy(), strict=True):
            assert np.array_equal(image, train[row].transpose(2, 0, 1))
        for image in shard.test_images.tolist():
            assert image in test.transpose(0, 3, 1, 2).tolist()
            if image in unseen:
                unseen.remove(image)
    assert unseen == []


def test_resized_pixels_are_those_of_pillow(noise):
    train, _, _ = noise
    ours = resize(torch.from_numpy(train.transpose(0, 3, 1, 2).copy()), 7)
    for image, mine in zip(train, ours.numpy(), strict=True):
        theirs = np.array(
            Image.fromarray(image).resize((7, 7), Image.Resampling.BILINEAR)
        )
        difference = mine.astype(int) - theirs.transpose(2, 0, 1)
        assert np.abs(difference).max() <= 1


def test_a_spec_s_form_is_that_of_its_pixels(noise):
    train, test, images = noise
    form = ImageSpec("npz", images.folder, image_size=7, channels=1)
    image_set = load_image_set(form)
    for raw, mine in ((train, image_set.train_images), (test, image_set.test_images)):
        planes = torch.from_numpy(raw.transpose(0, 3, 1, 2).copy())
        assert torch.equal(mine, resize(in_channels(planes, 1), 7))
        assert mine.float().std() > 10


def test_grey_images_are_repeated_in_every_channel():
    grey = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 1, 3, 4)
    color = in_channels(grey, 3)
    assert color.shape == (2, 3, 3, 4)
    assert all(torch.equal(color[:, channel], grey[:, 0]) for channel in range(3))
