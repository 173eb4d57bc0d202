"""Shards on disk: the same shard again, fast, or made anew; never a damaged one."""

import json
import logging
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from image_files import write_npz, write_tree

from fairfal_flwr import files
from fairfal_flwr.data import (
    ImageSpec,
    PartitionSpec,
    ShardCache,
    load_image_set,
    load_shard,
)
from fairfal_flwr.data import shard as shard_module
from fairfal_flwr.data.cache import Entry
from fairfal_flwr.data.partition import partition_rows
from fairfal_flwr.errors import UserError

TWO_CLIENTS = PartitionSpec(num_clients=2)


def archive(tmp_path, **keys) -> ImageSpec:
    """Return the images of a small archive."""
    if not (tmp_path / "set.npz").exists():
        write_npz(tmp_path / "set.npz")
    return ImageSpec("npz", **{"folder": str(tmp_path / "set.npz"), **keys})


def new_process() -> None:
    load_image_set.cache_clear()
    partition_rows.cache_clear()


def load(tmp_path, client=0, *, images=None, partition=TWO_CLIENTS, **limits):
    """Load a shard as a new process does, by a cache below the folder."""
    new_process()
    cache = ShardCache(tmp_path / "shards", **{"limit_mb": 8, "memory_mb": 8, **limits})
    return load_shard(images or archive(tmp_path), partition, client, cache=cache)


def same(first, second) -> bool:
    (a, labels), (b, other) = first, second
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.test_images, b.test_images)
        and torch.equal(a.test_labels, b.test_labels)
        and np.array_equal(a.sample_ids, b.sample_ids)
        and (labels is other is None or torch.equal(labels, other))
        and (a.class_names, a.mean, a.std) == (b.class_names, b.mean, b.std)
        and a.fingerprint == b.fingerprint
    )


@pytest.fixture
def forbid_making(monkeypatch):
    """Return a function after which no shard can be made anew."""

    def forbid() -> None:
        def fail(*_):
            raise AssertionError("made anew")

        monkeypatch.setattr(shard_module, "_make", fail)

    return forbid


def entries(tmp_path):
    return sorted(path for path in (tmp_path / "shards").iterdir() if path.is_dir())


def test_a_second_process_reads_the_same_shard_from_the_cache(tmp_path, forbid_making):
    made = [load(tmp_path, client) for client in range(2)]
    forbid_making()
    assert all(same(made[k], load(tmp_path, k)) for k in range(2))
    assert len(entries(tmp_path)) == 2


def test_a_shard_without_a_cache_is_the_same(tmp_path):
    new_process()
    loaded = load_shard(archive(tmp_path), TWO_CLIENTS, 1)
    assert same(loaded, load(tmp_path, 1))


def test_a_shard_above_the_limit_is_mapped_and_the_file_cannot_change(
    tmp_path, forbid_making
):
    made = load(tmp_path)
    forbid_making()
    mapped, _ = load(tmp_path, memory_mb=0)
    assert same(made, (mapped, made[1]))
    mapped.images.zero_()
    assert same(made, load(tmp_path))


@pytest.mark.parametrize(("memory_mb", "mapped"), [(0, True), (1, False)])
def test_arrays_above_the_limit_stay_on_disk(tmp_path, memory_mb, mapped):
    cache = ShardCache(tmp_path, limit_mb=1, memory_mb=memory_mb)
    cache.save("a" * 32, entry(100))
    assert isinstance(cache.load("a" * 32).arrays["images"], np.memmap) == mapped


@pytest.mark.parametrize(
    ("images", "partition"),
    [({}, {"seed": 1}), ({}, {"alpha": 5.0}), ({"channels": 3}, {})],
)
def test_another_deal_or_form_is_another_entry(tmp_path, images, partition):
    load(tmp_path)
    load(
        tmp_path,
        images=archive(tmp_path, **images),
        partition=replace(TWO_CLIENTS, **partition),
    )
    assert len(entries(tmp_path)) == 2


DEALS = {
    **{"num_clients": 3, "seed": 1, "partition_seed": 1, "long_tail": "step"},
    **{"imbalance_ratio": 2.0, "partitioner": "iid", "alpha": 1.0},
    "classes_per_client": 3,
}
FORMS = {
    **{"name": "octmnist", "folder": "copy.npz", "class_names": ("a", "b", "c")},
    **{"image_size": 32, "channels": 3, "normalization": "half"},
    "of_one_client": True,
}


def test_every_part_of_a_deal_enters_the_key(tmp_path):
    assert DEALS.keys() == {field.name for field in fields(PartitionSpec)}
    images = archive(tmp_path)
    others = [replace(TWO_CLIENTS, **{key: value}) for key, value in DEALS.items()]
    keys = {shard_module._key(images, deal, 0) for deal in [TWO_CLIENTS, *others]}
    assert len(keys) == 1 + len(DEALS)
    assert shard_module._key(images, TWO_CLIENTS, 1) not in keys


def test_every_part_of_the_images_enters_the_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert FORMS.keys() | {"memory_mb"} == {field.name for field in fields(ImageSpec)}
    images = archive(tmp_path)
    (tmp_path / "copy.npz").write_bytes((tmp_path / "set.npz").read_bytes())
    others = [replace(images, **{key: value}) for key, value in FORMS.items()]
    keys = {shard_module._key(each, TWO_CLIENTS, 0) for each in [images, *others]}
    assert len(keys) == 1 + len(FORMS)


def test_what_is_no_part_of_the_images_is_no_other_entry(
    tmp_path, forbid_making, monkeypatch
):
    made = load(tmp_path)
    forbid_making()
    assert same(made, load(tmp_path, images=archive(tmp_path, memory_mb=1)))
    monkeypatch.chdir(tmp_path)
    assert same(made, load(tmp_path, images=archive(tmp_path, folder="set.npz")))


def test_the_working_directory_does_not_matter_to_a_set_in_its_usual_place(
    tmp_path, monkeypatch
):
    before = shard_module._key(ImageSpec("digits"), TWO_CLIENTS, 0)
    monkeypatch.chdir(tmp_path)
    assert shard_module._key(ImageSpec("digits"), TWO_CLIENTS, 0) == before


def test_the_same_files_read_from_another_folder_are_another_entry(tmp_path):
    """Class folders below `test` are no training images, unless `test` is the root."""
    write_tree(tmp_path, splits=("test",))
    inside = ImageSpec("folder", str(tmp_path / "test"), of_one_client=True)
    assert len(load(tmp_path / "cache", images=inside)[0]) == 5
    whole = replace(inside, folder=str(tmp_path))
    with pytest.raises(UserError, match="which has no training images"):
        load(tmp_path / "cache", images=whole)


def test_changed_files_are_read_again(tmp_path):
    first, _ = load(tmp_path)
    write_npz(tmp_path / "set.npz", train_images=np.full((12, 28, 28), 9, np.uint8))
    second, _ = load(tmp_path)
    assert second.images.unique().tolist() == [9]
    assert first.fingerprint != second.fingerprint


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.npy", flip_last_byte),
        ("sample_ids.npy", flip_last_byte),
        ("labels.npy", lambda path: path.write_bytes(path.read_bytes()[:-8])),
        ("test_labels.npy", lambda path: path.write_bytes(b"")),
        ("manifest.json", lambda path: path.write_bytes(b"{")),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", lambda path: path.write_text('{"checksums": {}}')),
        ("manifest.json", lambda path: path.unlink()),
        ("images.npy", lambda path: path.unlink()),
    ],
)
def test_a_damaged_entry_is_made_anew(tmp_path, name, damage, forbid_making):
    made = load(tmp_path)
    damage(entries(tmp_path)[0] / name)
    assert same(made, load(tmp_path))
    forbid_making()
    assert same(made, load(tmp_path))


def test_arrays_that_belong_to_another_entry_are_not_taken(tmp_path):
    made = [load(tmp_path, client) for client in range(2)]
    first, second = entries(tmp_path)
    (first / "images.npy").write_bytes((second / "images.npy").read_bytes())
    assert all(same(made[k], load(tmp_path, k)) for k in range(2))


def test_a_full_disk_costs_no_run_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with caplog.at_level(logging.WARNING, "fairfal.data"):
        shard, _ = load(tmp_path)
    assert len(shard) == 6
    assert "not cached in" in caplog.text
    assert "No space left on device" in caplog.text
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path, caplog):
    images = archive(tmp_path)
    (tmp_path / "shards").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "fairfal.data"):
        shard, _ = load(tmp_path, images=images)
    assert len(shard) == 6
    assert "Not a directory" in caplog.text


def test_no_cache_is_kept_where_none_is_wanted(tmp_path):
    load(tmp_path, limit_mb=0)
    assert not (tmp_path / "shards").exists()


def entry(size: int) -> Entry:
    return Entry({"images": np.zeros(size, np.uint8)}, {})


def test_the_oldest_entries_make_room(tmp_path):
    fill(tmp_path / "shards", "abc")
    assert [path.name for path in entries(tmp_path)] == ["b" * 32, "c" * 32]
    cache = ShardCache(tmp_path / "shards", limit_mb=1, memory_mb=1)
    cache.save("d" * 32, entry(1 << 21))
    assert cache.load("d" * 32) is None
    assert cache.load("c" * 32) is not None


def fill(folder, letters):
    """Save an entry for each letter, of which two have room; the first is oldest."""
    cache = ShardCache(folder, limit_mb=1, memory_mb=1)
    for number, letter in enumerate(letters):
        cache.save(letter * 32, entry(400_000))
        manifest = folder / (letter * 32) / "manifest.json"
        if manifest.exists():
            os.utime(manifest, (number, number))


def write_files(folder):
    """Make five files of somebody else's, larger than the cache may be."""
    for name in ("a.npy", "manifest.json", "b/manifest.json", "c" * 32, "d/e/f.npy"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1 << 19))
    return contents(folder)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_somebody_elses_is_left_as_it_is(tmp_path, caplog):
    before = write_files(tmp_path / "shards")
    with caplog.at_level(logging.WARNING, "fairfal.data"):
        fill(tmp_path / "shards", "abc")
    assert contents(tmp_path / "shards") == before
    assert len(before) == 5
    assert "somebody else's" in caplog.text


def test_a_folder_with_another_programs_tag_is_left_as_it_is(tmp_path):
    (tmp_path / "CACHEDIR.TAG").write_text(
        "Signature: 8a477f597d28d172789f06886806bc55"
    )
    fill(tmp_path, "abc")
    assert [path.name for path in tmp_path.iterdir()] == ["CACHEDIR.TAG"]


def test_what_others_put_beside_the_entries_stays(tmp_path):
    fill(tmp_path / "shards", "a")
    foreign = write_files(tmp_path / "shards" / "notes")
    inside = tmp_path / "shards" / ("a" * 32) / "read-me.txt"
    inside.write_text("mine")
    elsewhere = write_files(tmp_path / "elsewhere")
    (tmp_path / "shards" / ("0" * 32)).symlink_to(tmp_path / "elsewhere")
    fill(tmp_path / "shards", "bcde")
    assert contents(tmp_path / "shards" / "notes") == foreign
    assert contents(tmp_path / "elsewhere") == elsewhere
    assert contents(inside.parent) == {inside: b"mine"}


def test_a_node_s_own_images_depend_on_no_deal(tmp_path, forbid_making):
    images = archive(tmp_path, of_one_client=True)
    made = load(tmp_path, 1, images=images)
    assert len(made[0]) == 12
    forbid_making()
    other = PartitionSpec(num_clients=3, seed=7, partition_seed=7)
    assert same(made, load(tmp_path, 2, images=images, partition=other))


def test_unlabeled_shards_stay_unlabeled(tmp_path, forbid_making):
    write_npz(tmp_path / "set.npz", train_labels=None)
    images = archive(tmp_path, class_names=("a", "b", "c"))
    partition = replace(TWO_CLIENTS, partitioner="iid")
    made = load(tmp_path, images=images, partition=partition)
    assert made[1] is None
    forbid_making()
    assert load(tmp_path, images=images, partition=partition)[1] is None


def test_files_and_their_identities_are_kept(tmp_path, forbid_making):
    images = ImageSpec("folder", str(write_tree(tmp_path / "own")), of_one_client=True)
    made = load(tmp_path, images=images)
    assert len(made[0].files) == 5
    forbid_making()
    kept = load(tmp_path, images=images)
    assert same(made, kept)
    assert kept[0].identity == made[0].identity
    assert (kept[0].files, kept[0].folder) == (made[0].files, str(tmp_path / "own"))


def test_the_manifest_holds_no_label(tmp_path):
    load(tmp_path)
    manifest = json.loads((entries(tmp_path)[0] / "manifest.json").read_text())
    assert manifest["facts"].keys() == {
        *("class_names", "mean", "std", "fingerprint", "files", "folder")
    }


def test_missing_files_are_told_and_not_found_in_the_cache(tmp_path):
    images = archive(tmp_path)
    load(tmp_path, images=images)
    (tmp_path / "set.npz").unlink()
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path, images=images)
