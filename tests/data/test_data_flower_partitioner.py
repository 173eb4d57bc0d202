"""The deal as flwr-datasets sees it: the same rows as `load_shard`.

Slow for its imports: flwr-datasets takes as long as all other tests of the folder.
"""

from typing import Any

import numpy as np
import pytest

from fairfal_flwr.config.data import PARTITIONERS
from fairfal_flwr.data import ImageSpec, PartitionSpec, load_image_set, load_shard
from fairfal_flwr.data.partition import _kept_rows
from fairfal_flwr.errors import UserError

pytestmark = pytest.mark.slow

DIGITS = ImageSpec("digits")


def partitioner(dataset: Any, num_partitions: int, alpha: float, seed: int = 0) -> Any:
    from fairfal_flwr.data.flower_partitioner import BalancedDirichletPartitioner

    made = BalancedDirichletPartitioner(num_partitions, "label", alpha, seed)
    made.dataset = dataset
    return made


@pytest.mark.parametrize("ratio", [1.0, 20.0, 1000.0])
def test_flower_s_partitions_are_the_shards(ratio):
    from datasets import ClassLabel, Dataset, Features, Value

    partition = PartitionSpec(
        num_clients=5, seed=3, partition_seed=3, imbalance_ratio=ratio, alpha=0.3
    )
    digits = load_image_set(DIGITS)
    rows = _kept_rows(digits, partition)
    labels = digits.train_labels.numpy()[rows]
    dataset = Dataset.from_dict(
        {"label": labels, "row": rows},
        features=Features({"label": ClassLabel(num_classes=10), "row": Value("int64")}),
    )
    parts = partitioner(dataset, 5, 0.3, seed=3)
    assert parts.num_partitions == 5
    for client in range(5):
        mine = np.asarray(parts.load_partition(client)["row"][:])
        assert np.array_equal(mine, load_shard(DIGITS, partition, client)[0].sample_ids)


def test_plain_integers_will_do_as_labels():
    from datasets import Dataset

    dataset = Dataset.from_dict({"label": [0, 1, 2, 0, 1, 2, 0], "row": range(7)})
    parts = partitioner(dataset, 2, 1.0)
    first, second = (parts.load_partition(client)["row"][:] for client in (0, 1))
    assert (len(first), len(second)) == (4, 3)
    assert sorted(first + second) == list(range(7))


def test_more_partitions_than_rows_are_refused():
    from datasets import Dataset

    parts = partitioner(Dataset.from_dict({"label": [0, 1]}), 3, 1.0)
    with pytest.raises(UserError, match=r"^`num-clients` is 3; allowed: 1 to 2"):
        parts.load_partition(0)


NAMES = list(PARTITIONERS)


def test_the_config_names_every_partitioner():
    from fairfal_flwr.data.flower_partitioner import FLOWER_PARTITIONERS

    assert set(NAMES) == {"balanced-dirichlet", *FLOWER_PARTITIONERS}


def deal(name, labels, num_clients, *, seed=0, alpha=0.5, classes_per_client=2):
    from fairfal_flwr.data.flower_partitioner import flower_deal

    return flower_deal(
        name,
        labels,
        num_clients,
        np.random.default_rng(seed),
        alpha=alpha,
        classes_per_client=classes_per_client,
    )


@pytest.mark.parametrize("name", NAMES[1:])
def test_partitioners_of_flower_deal_every_image_once_and_the_same_again(name):
    labels = np.sort(np.arange(400) % 10)
    rows = deal(name, labels, 4)
    again = deal(name, labels, 4)
    assert [part.tolist() for part in rows] == [part.tolist() for part in again]
    together = np.concatenate(rows)
    assert len(set(together.tolist())) == len(together)
    if name != "pathological":  # it drops the classes that no client has drawn
        assert len(together) == 400
    assert all(np.all(np.diff(part) > 0) for part in rows)
    if name != "pathological":
        other = deal(name, labels, 4, seed=1)
        assert [p.tolist() for p in rows] != [p.tolist() for p in other]


def test_sizes_and_classes_are_what_the_names_promise():
    labels = np.sort(np.arange(400) % 10)
    sizes = {name: [len(p) for p in deal(name, labels, 4)] for name in NAMES[1:]}
    assert sizes["iid"] == sizes["inner-dirichlet"] == [100] * 4
    assert sizes["linear"] == [40, 80, 120, 160]
    assert sizes["square"][3] > sizes["square"][0] * 10
    iid = deal("iid", labels, 4)[0]
    assert len(np.unique(labels[iid])) == 10  # though the labels were sorted
    for part in deal("pathological", labels, 10, classes_per_client=3):
        assert len(np.unique(labels[part])) == 3


def test_more_classes_than_there_are_name_their_key():
    line = r"^`data.classes-per-client` is 11; allowed: 1 to 10, the number of classes"
    with pytest.raises(UserError, match=line):
        deal("pathological", np.arange(30) % 10, 2, classes_per_client=11)


@pytest.mark.parametrize("name", NAMES[1:])
def test_more_clients_than_images_name_their_key(name):
    line = r"^`num-clients` is 31; allowed: 1 to 30, the number of training images"
    with pytest.raises(UserError, match=line):
        deal(name, np.arange(30) % 10, 31)


def test_a_deal_that_a_partitioner_cannot_make_is_one_line():
    with pytest.raises(
        UserError,
        match=r"^`data.partitioner` is 'shard', which cannot deal 30 images to "
        r"2 clients: .*\.$",
    ):
        deal("shard", np.arange(30) % 10, 2, classes_per_client=50)


@pytest.mark.parametrize("name", ["linear", "exponential", "dirichlet"])
def test_a_client_without_images_is_an_error(name):
    partition = PartitionSpec(num_clients=1400, partitioner=name)
    with pytest.raises(UserError, match=rf"^`data.partitioner` is '{name}'"):
        load_shard(DIGITS, partition, 0)


def test_the_test_set_follows_the_training_images():
    partition = PartitionSpec(num_clients=5, partitioner="pathological")
    shards = [load_shard(DIGITS, partition, client) for client in range(5)]
    assert sum(len(shard.test_labels) for shard, _ in shards) == 360
    used = set().union(*(labels.tolist() for _, labels in shards))
    for shard, labels in shards:
        mine = used & set(shard.test_labels.tolist())
        assert mine <= set(labels.tolist())
