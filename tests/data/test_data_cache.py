"""Shards on disk: the same shard again, fast, or made anew; never a damaged one."""

import json
import logging

import numpy as np
import pytest
import torch
from image_files import write_npz

from fairfal_flwr import files
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import deal as deal_module
from fairfal_flwr.data import load_image_set, load_shard
from fairfal_flwr.data import shard as shard_module
from fairfal_flwr.data.cache import Entry, ShardCache
from fairfal_flwr.errors import UserError


def run(tmp_path, **keys) -> RunConfig:
    """Return a run of two clients on a small archive, with a cache of its own."""
    if not (tmp_path / "set.npz").exists():
        write_npz(tmp_path / "set.npz")
    defaults = {
        "data.name": "npz",
        "data-dir": str(tmp_path / "set.npz"),
        "state-dir": str(tmp_path / "state"),
        "num-clients": 2,
        "data.imbalance-ratio": 1.0,
    }
    return RunConfig.from_flat(defaults | keys)


def new_process() -> None:
    for cached in (load_image_set, deal_module._dealt, deal_module._training_rows):
        cached.cache_clear()


def load(config, client=0, data_path=""):
    new_process()
    return load_shard(config, client, data_path)


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
    return sorted((tmp_path / "state" / "shards").iterdir())


def test_a_second_process_reads_the_same_shard_from_the_cache(tmp_path, forbid_making):
    config = run(tmp_path)
    made = [load(config, client) for client in range(2)]
    forbid_making()
    assert all(same(made[k], load(config, k)) for k in range(2))
    assert len(entries(tmp_path)) == 2


def test_a_shard_above_the_limit_is_mapped_and_the_file_cannot_change(
    tmp_path, forbid_making
):
    config = run(tmp_path, **{"data.memory-mb": 0})
    made = load(config)
    forbid_making()
    mapped, _ = load(config)
    assert same(made, (mapped, made[1]))
    mapped.images.zero_()
    assert same(made, load(config))


@pytest.mark.parametrize(
    "keys",
    [
        {"seed": 1},
        {"num-clients": 3},
        {"data.alpha": 5.0},
        {"data.imbalance-ratio": 2.0},
        {"data.long-tail": "step"},
        {"data.image-size": 32},
        {"data.channels": 3},
        {"data.class-names": "a,b,c"},
        {"data.normalization": "imagenet"},
        {"data.partition-seed": 5},
    ],
)
def test_another_configuration_is_another_entry(tmp_path, keys):
    load(run(tmp_path))
    load(run(tmp_path, **keys))
    assert len(entries(tmp_path)) == 2


def test_changed_files_are_read_again(tmp_path):
    first, _ = load(run(tmp_path))
    write_npz(tmp_path / "set.npz", train_images=np.zeros((12, 28, 28), np.uint8))
    second, _ = load(run(tmp_path))
    assert second.images.max() == 0
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
    config = run(tmp_path)
    made = load(config)
    damage(entries(tmp_path)[0] / name)
    assert same(made, load(config))
    forbid_making()
    assert same(made, load(config))


def test_arrays_that_belong_to_another_entry_are_not_taken(tmp_path):
    config = run(tmp_path)
    made = [load(config, client) for client in range(2)]
    first, second = entries(tmp_path)
    (first / "images.npy").write_bytes((second / "images.npy").read_bytes())
    assert all(same(made[k], load(config, k)) for k in range(2))


def test_a_full_disk_costs_no_run_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with caplog.at_level(logging.WARNING, "fairfal.data"):
        shard, _ = load(run(tmp_path))
    assert len(shard) == 6
    assert "not cached in" in caplog.text
    assert "No space left on device" in caplog.text
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "fairfal.data"):
        shard, _ = load(run(tmp_path, **{"state-dir": str(tmp_path / "file")}))
    assert len(shard) == 6
    assert "Not a directory" in caplog.text


def test_no_cache_is_kept_where_none_is_wanted(tmp_path):
    load(run(tmp_path, **{"data.cache-mb": 0}))
    assert not (tmp_path / "state").exists()


def entry(size: int) -> Entry:
    return Entry({"images": np.zeros(size, np.uint8)}, {})


def test_the_oldest_entries_make_room(tmp_path):
    cache = ShardCache(tmp_path, limit_mb=1, memory_mb=1)
    for number, key in enumerate("abc"):
        cache.save(key, entry(400_000))
        manifest = tmp_path / key / "manifest.json"
        if manifest.exists():
            import os

            os.utime(manifest, (number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    cache.save("d", entry(1 << 21))
    assert cache.load("d") is None
    assert cache.load("c") is not None


def test_a_node_s_own_images_depend_on_no_seed(tmp_path, forbid_making):
    config = run(tmp_path)
    made = load(config, 1, str(tmp_path / "set.npz"))
    assert len(made[0]) == 12
    forbid_making()
    assert same(made, load(run(tmp_path, seed=7), 1, str(tmp_path / "set.npz")))


def test_unlabeled_shards_stay_unlabeled(tmp_path, forbid_making):
    write_npz(tmp_path / "set.npz", train_labels=None)
    config = run(tmp_path, **{"data.class-names": "a,b,c", "data.partitioner": "iid"})
    made = load(config)
    assert made[1] is None
    forbid_making()
    assert load(config)[1] is None


def test_the_manifest_holds_no_label(tmp_path):
    load(run(tmp_path))
    manifest = json.loads((entries(tmp_path)[0] / "manifest.json").read_text())
    assert set(manifest["facts"]) == {"class_names", "mean", "std", "fingerprint"}


def test_missing_files_are_told_and_not_found_in_the_cache(tmp_path):
    config = run(tmp_path)
    load(config)
    (tmp_path / "set.npz").unlink()
    with pytest.raises(UserError, match="there is no folder"):
        load(config)
