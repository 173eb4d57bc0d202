"""One client's shard, the oracle's answers and the server's test set."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch
from image_files import picture, write_tree

from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import (
    Request,
    Shard,
    class_counts,
    load_image_set,
    load_shard,
    load_test_set,
    long_tail_counts,
    partition_table,
)
from fairfal_flwr.data import deal as deal_module
from fairfal_flwr.data import shard as shard_module
from fairfal_flwr.data.fashion_mnist import DEBIAN_FOLDER
from fairfal_flwr.errors import UserError


def config(**data) -> RunConfig:
    top = {key: data.pop(key) for key in ("seed", "num-clients") if key in data}
    data = {"imbalance-ratio": 1.0, **data}
    return RunConfig.from_flat({**top, **{f"data.{k}": v for k, v in data.items()}})


def all_ids(run: RunConfig) -> list[list[int]]:
    return [load_shard(run, k)[0].sample_ids.tolist() for k in range(run.num_clients)]


def test_a_shard_holds_the_images_its_sample_ids_say():
    digits = load_image_set(Request("digits"))
    shard, labels = load_shard(config(), 2)
    assert len(shard) == len(shard.images) == len(shard.sample_ids) == 287
    assert shard.sample_ids.dtype == np.int64
    assert torch.equal(shard.images, digits.train_images[shard.sample_ids])
    assert torch.equal(labels, digits.train_labels[shard.sample_ids])
    assert shard.images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert shard.num_classes == 10
    assert (shard.class_names, shard.mean, shard.std) == (
        digits.class_names,
        digits.mean,
        digits.std,
    )


def test_a_shard_carries_no_training_labels():
    names = {field.name for field in dataclasses.fields(Shard)}
    assert {name for name in names if "label" in name} == {"test_labels"}


def test_the_shards_are_all_images_each_once():
    ids = all_ids(config())
    assert sorted(chain.from_iterable(ids)) == list(range(1437))
    assert [len(part) for part in ids] == [288, 288, 287, 287, 287]


def test_the_test_shards_are_the_test_set_each_image_once():
    shards = [load_shard(config(alpha=0.1), k)[0] for k in range(5)]
    assert sum(len(shard.test_labels) for shard in shards) == 360
    together = torch.cat([shard.test_labels for shard in shards])
    assert together.bincount().tolist() == [36] * 10
    assert all(len(s.test_images) == len(s.test_labels) for s in shards)


def test_the_long_tail_reaches_shards_and_class_counts():
    run = config(**{"imbalance-ratio": 20.0})
    expected = np.minimum(
        class_counts(config()), long_tail_counts(1437, 10, 20.0)
    ).tolist()
    assert class_counts(run).tolist() == expected
    labels = torch.cat([load_shard(run, k)[1] for k in range(5)])
    assert labels.bincount(minlength=10).tolist() == expected


def test_class_counts_without_a_long_tail_are_those_of_the_training_set():
    expected = load_image_set(Request("digits")).train_labels.bincount().tolist()
    assert class_counts(config()).tolist() == expected


def test_a_tail_without_images_still_counts_as_classes():
    run = config(**{"imbalance-ratio": 1000.0})
    assert class_counts(run).tolist()[-3:] == [0, 0, 0]
    assert load_shard(run, 0)[0].num_classes == 10


def test_the_seed_changes_the_deal_and_the_partition_seed_holds_it():
    assert all_ids(config(seed=1)) == all_ids(config(seed=1))
    assert all_ids(config(seed=1)) != all_ids(config(seed=2))
    held = {"partition-seed": 0}
    assert all_ids(config(seed=1, **held)) == all_ids(config(seed=2, **held))
    assert all_ids(config(seed=0)) == all_ids(config(seed=2, **held))


def test_the_seed_changes_the_long_tail_where_the_partition_seed_is_held():
    held = {"partition-seed": 0, "imbalance-ratio": 20.0}
    first, second = (
        set(chain.from_iterable(all_ids(config(seed=seed, **held)))) for seed in (1, 2)
    )
    assert first != second


def test_the_split_is_computed_once_for_all_clients():
    deal_module._dealt.cache_clear()
    all_ids(config(seed=77))
    assert deal_module._dealt.cache_info().misses == 1


def test_sample_ids_of_one_shard_can_be_changed_without_harm():
    load_shard(config(), 0)[0].sample_ids[:] = -1
    assert load_shard(config(), 0)[0].sample_ids[0] >= 0


def test_the_fingerprint_tells_images_apart_and_nothing_else():
    first = load_shard(config(), 0)[0].fingerprint
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert load_shard(config(), 0)[0].fingerprint == first
    assert load_shard(config(), 1)[0].fingerprint != first
    one = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    assert shard_module._fingerprint(one) != shard_module._fingerprint(
        one.reshape(1, 1, 8, 4)
    )


def test_to_moves_every_tensor():
    moved = load_shard(config(), 0)[0].to("meta")
    assert isinstance(moved, Shard)
    for field in dataclasses.fields(moved):
        value = getattr(moved, field.name)
        if isinstance(value, torch.Tensor):
            assert value.device.type == "meta", field.name


@pytest.mark.parametrize("partition_id", [-1, 5])
def test_a_client_that_does_not_exist_is_refused(partition_id):
    with pytest.raises(
        UserError,
        match=rf"^`partition-id` is {partition_id}; allowed: 0 to 4, since "
        r"`num-clients` is 5\.$",
    ):
        load_shard(config(), partition_id)


def test_more_clients_than_images_are_refused():
    with pytest.raises(
        UserError, match=r"^`num-clients` is 1438; allowed: 1 to 1437, the number"
    ):
        load_shard(config(**{"num-clients": 1438}), 0)


def test_the_server_tests_on_the_whole_test_set():
    digits, test_set = load_image_set(Request("digits")), load_test_set(config())
    assert torch.equal(test_set.images, digits.test_images)
    assert torch.equal(test_set.labels, digits.test_labels)
    assert test_set.num_classes == 10
    assert (test_set.class_names, test_set.mean, test_set.std) == (
        digits.class_names,
        digits.mean,
        digits.std,
    )


@pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_the_paper_s_fashion_mnist():
    run = config(
        **{"name": "fashion-mnist", "imbalance-ratio": 20.0, "alpha": 0.1},
        **{"num-clients": 10},
    )
    assert class_counts(run).sum() == 20428
    shards = [load_shard(run, k)[0] for k in range(10)]
    assert [len(shard) for shard in shards] == [2043] * 8 + [2042] * 2
    assert sum(len(shard.test_labels) for shard in shards) == 10000


def power_at_most(count: int, n_max: int, ratio: int, position: int, steps: int):
    """Tell whether count <= n_max * ratio ** (-position / steps), in whole numbers."""
    return count**steps * ratio**position <= n_max**steps


@pytest.mark.parametrize(
    ("num_images", "num_classes", "total", "labels"),
    # Fashion-MNIST, CIFAR-10, CIFAR-100: METHOD section 2 at rho = 20.
    [(60000, 10, 20428, 102), (50000, 10, 17023, 85), (50000, 100, 15907, 79)],
)
def test_the_paper_s_counts(num_images, num_classes, total, labels):
    counts = long_tail_counts(num_images, num_classes, 20.0)
    n_max, steps = num_images // num_classes, num_classes - 1
    for position, count in enumerate(counts.tolist()):
        assert power_at_most(count, n_max, 20, position, steps)
        assert not power_at_most(count + 1, n_max, 20, position, steps)
    assert counts.sum() == total
    assert {int(0.05 * (total // 10)), int(0.05 * (-(-total // 10)))} == {labels}


def test_the_step_reaches_the_class_counts():
    run = config(**{"imbalance-ratio": 4.0, "long-tail": "step"})
    everything = class_counts(config())
    assert class_counts(run).tolist() == [
        min(have, 143 if label < 5 else 35) for label, have in enumerate(everything)
    ]


def test_the_table_counts_the_shards():
    run = config(alpha=0.3)
    counts, names = partition_table(run)
    assert names == tuple("0123456789")
    for client in range(5):
        labels = load_shard(run, client)[1]
        assert counts[client].tolist() == labels.bincount(minlength=10).tolist()


def test_a_node_s_own_folder_is_its_whole_shard(tmp_path):
    write_tree(tmp_path)
    run = config(name="folder", **{"num-clients": 3, "imbalance-ratio": 20.0})
    shard, labels = load_shard(run, 2, str(tmp_path))
    assert len(shard) == 5
    assert shard.sample_ids.tolist() == list(range(5))
    assert labels.tolist() == shard.test_labels.tolist() == [0, 0, 0, 1, 1]


def test_a_node_s_own_folder_is_named_in_messages(tmp_path):
    run = config(name="folder")
    with pytest.raises(UserError, match=rf"^`data-path` is '{tmp_path}/x', but there"):
        load_shard(run, 0, f"{tmp_path}/x")
    with pytest.raises(UserError, match=r"^`data-path` is '/x' in the node config"):
        load_shard(config(), 0, "/x")


def test_a_folder_of_test_images_alone_is_no_shard(tmp_path):
    write_tree(tmp_path, splits=("test",))
    with pytest.raises(UserError, match=r"^`data-path` is .*, which has no training i"):
        load_shard(config(name="folder"), 0, str(tmp_path))


def unlabeled(tmp_path, count: int = 7, **keys) -> RunConfig:
    for value in range(count):
        picture(value).save(tmp_path / f"{value}.png")
    keys = {"name": "folder", "class-names": "a,b", **keys}
    flat = config(**keys).to_flat()
    return RunConfig.from_flat(flat | {"data-dir": str(tmp_path)})


def test_images_without_labels_are_dealt_in_equal_parts(tmp_path):
    run = unlabeled(tmp_path, partitioner="iid", **{"num-clients": 3})
    shards = [load_shard(run, client) for client in range(3)]
    assert [len(shard) for shard, _ in shards] == [3, 2, 2]
    assert {labels for _, labels in shards} == {None}
    ids = chain.from_iterable(shard.sample_ids.tolist() for shard, _ in shards)
    assert sorted(ids) == list(range(7))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({}, r"^`data.partitioner` is 'balanced-dirichlet', which goes by labels, but"),
        ({"imbalance-ratio": 5.0}, r"^`data.imbalance-ratio` is 5; allowed: 1 where"),
        (
            {"partitioner": "iid", "num-clients": 8},
            r"^`num-clients` is 8; allowed: 1 to 7, the number of training images\.$",
        ),
    ],
)
def test_images_without_labels_cannot_be_dealt_by_them(tmp_path, keys, line):
    with pytest.raises(UserError, match=line):
        load_shard(unlabeled(tmp_path, **keys), 0)


def test_images_without_labels_have_no_table(tmp_path):
    with pytest.raises(UserError, match="whose images have no labels to count"):
        partition_table(unlabeled(tmp_path))


def without_images(**keys) -> RunConfig:
    return config(name="folder", **{"server-test": False, **keys})


SHAPE = {"class-names": "cat, dog,cow", "image-size": 24, "channels": 3}


def test_a_server_without_images_knows_their_shape_from_the_config():
    run = without_images(**SHAPE)
    test_set = load_test_set(run)
    assert test_set.images.shape == (0, 3, 24, 24)
    assert test_set.class_names == ("cat", "dog", "cow")
    assert (test_set.mean, test_set.std) == ((0.5,) * 3, (0.5,) * 3)
    assert class_counts(run).tolist() == [0, 0, 0]


def test_a_server_without_images_agrees_with_the_nodes(tmp_path):
    write_tree(tmp_path)
    run = without_images(normalization="imagenet", **SHAPE)
    test_set, (shard, _) = load_test_set(run), load_shard(run, 0, str(tmp_path))
    assert shard.images.shape[1:] == test_set.images.shape[1:]
    assert (shard.mean, shard.std) == (test_set.mean, test_set.std)
    assert shard.class_names == test_set.class_names
    assert shard.mean == (0.485, 0.456, 0.406)


def test_a_server_without_images_names_the_keys_it_needs():
    with pytest.raises(
        UserError,
        match=r"^`data.server-test` is false, so `data.class-names`, `data.channels` "
        r"must say what the clients' images are\.$",
    ):
        load_test_set(without_images(**{"image-size": 24}))


def test_a_server_whose_folder_has_no_test_images_is_told_of_the_key(tmp_path):
    write_tree(tmp_path, splits=("train",))
    flat = config(name="folder").to_flat() | {"data-dir": str(tmp_path)}
    with pytest.raises(UserError, match=r"no test images for the server; add them, or"):
        load_test_set(RunConfig.from_flat(flat))


def test_fewer_images_than_clients_in_a_folder(tmp_path):
    flat = config(name="folder", **{"num-clients": 6}).to_flat()
    run = RunConfig.from_flat(flat | {"data-dir": str(write_tree(tmp_path))})
    with pytest.raises(UserError, match=r"^`num-clients` is 6; allowed: 1 to 5"):
        load_shard(run, 0)
