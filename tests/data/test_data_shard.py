"""One client's shard, the oracle's answers and the server's test set."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch

from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import (
    Shard,
    class_counts,
    load_image_set,
    load_shard,
    load_test_set,
    long_tail_counts,
)
from fairfal_flwr.data import (
    shard as shard_module,
)
from fairfal_flwr.data.fashion_mnist import DEBIAN_FOLDER
from fairfal_flwr.errors import UserError


def config(**data) -> RunConfig:
    top = {key: data.pop(key) for key in ("seed", "num-clients") if key in data}
    return RunConfig.from_flat({**top, **{f"data.{k}": v for k, v in data.items()}})


def all_ids(run: RunConfig) -> list[list[int]]:
    return [load_shard(run, k)[0].sample_ids.tolist() for k in range(run.num_clients)]


def test_a_shard_holds_the_images_its_sample_ids_say():
    digits = load_image_set("digits", "")
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
    expected = load_image_set("digits", "").train_labels.bincount().tolist()
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
    shard_module._split.cache_clear()
    all_ids(config(seed=77))
    assert shard_module._split.cache_info().misses == 1


def test_sample_ids_of_one_shard_can_be_changed_without_harm():
    load_shard(config(), 0)[0].sample_ids[:] = -1
    assert load_shard(config(), 0)[0].sample_ids[0] >= 0


def test_the_fingerprint_tells_images_apart_and_nothing_else():
    first = load_shard(config(), 0)[0].fingerprint
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert load_shard(config(), 0)[0].fingerprint == first
    assert load_shard(config(), 1)[0].fingerprint != first
    one = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
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
    digits, test_set = load_image_set("digits", ""), load_test_set(config())
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
