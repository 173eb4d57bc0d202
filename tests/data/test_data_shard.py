"""One client's shard, the oracle's answers and the server's test set."""

import dataclasses
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from image_files import picture, write_tree
from PIL import Image

from fairfal_flwr.data import (
    ImageSpec,
    PartitionSpec,
    Shard,
    class_counts,
    empty_test_set,
    load_image_set,
    load_shard,
    load_test_set,
    long_tail_counts,
    partition_table,
)
from fairfal_flwr.data import partition as partition_module
from fairfal_flwr.data import shard as shard_module
from fairfal_flwr.data.fashion_mnist import DEBIAN_FOLDER
from fairfal_flwr.data.partition import partition_rows
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import identity_of

DIGITS = ImageSpec("digits")


def dealt(seed: int = 0, **keys) -> PartitionSpec:
    """Return a deal to five clients, whose seed is that of the long tail too."""
    return PartitionSpec(
        **{"num_clients": 5, "seed": seed, "partition_seed": seed, **keys}
    )


def all_ids(partition: PartitionSpec) -> list[list[int]]:
    return [
        load_shard(DIGITS, partition, client)[0].sample_ids.tolist()
        for client in range(partition.num_clients)
    ]


def test_a_shard_holds_the_images_its_sample_ids_say():
    digits = load_image_set(DIGITS)
    shard, labels = load_shard(DIGITS, dealt(), 2)
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
    ids = all_ids(dealt())
    assert sorted(chain.from_iterable(ids)) == list(range(1437))
    assert [len(part) for part in ids] == [288, 288, 287, 287, 287]


def test_the_test_shards_are_the_test_set_each_image_once():
    shards = [load_shard(DIGITS, dealt(alpha=0.1), k)[0] for k in range(5)]
    assert sum(len(shard.test_labels) for shard in shards) == 360
    together = torch.cat([shard.test_labels for shard in shards])
    assert together.bincount().tolist() == [36] * 10
    assert all(len(s.test_images) == len(s.test_labels) for s in shards)


def test_the_long_tail_reaches_shards_and_class_counts():
    partition = dealt(imbalance_ratio=20.0)
    expected = np.minimum(
        class_counts(DIGITS, dealt()), long_tail_counts(1437, 10, 20.0)
    ).tolist()
    assert class_counts(DIGITS, partition).tolist() == expected
    labels = torch.cat([load_shard(DIGITS, partition, k)[1] for k in range(5)])
    assert labels.bincount(minlength=10).tolist() == expected


def test_class_counts_without_a_long_tail_are_those_of_the_training_set():
    expected = load_image_set(DIGITS).train_labels.bincount().tolist()
    assert class_counts(DIGITS, dealt()).tolist() == expected


def test_a_tail_without_images_still_counts_as_classes():
    partition = dealt(imbalance_ratio=1000.0)
    assert class_counts(DIGITS, partition).tolist()[-3:] == [0, 0, 0]
    assert load_shard(DIGITS, partition, 0)[0].num_classes == 10


def test_the_seed_changes_the_deal_and_the_partition_seed_holds_it():
    assert all_ids(dealt(seed=1)) == all_ids(dealt(seed=1))
    assert all_ids(dealt(seed=1)) != all_ids(dealt(seed=2))
    held = {"partition_seed": 0}
    assert all_ids(dealt(seed=1, **held)) == all_ids(dealt(seed=2, **held))
    assert all_ids(dealt(seed=0)) == all_ids(dealt(seed=2, **held))


def test_the_seed_changes_the_long_tail_where_the_partition_seed_is_held():
    held = {"partition_seed": 0, "imbalance_ratio": 20.0}
    first, second = (
        set(chain.from_iterable(all_ids(dealt(seed=seed, **held)))) for seed in (1, 2)
    )
    assert first != second


def test_the_partition_seed_deals_the_test_images_too():
    """Alpha is huge, so two deals of a fifth share about a fifth of it, 14 of 72."""
    first, same, other = (
        {
            bytes(image.flatten().tolist())
            for image in load_shard(DIGITS, partition, 0)[0].test_images
        }
        for partition in (dealt(partition_seed=seed, alpha=1e6) for seed in (1, 1, 2))
    )
    assert first == same
    assert 65 < len(other) < 80
    assert len(first & other) < 30


def test_the_split_is_computed_once_for_all_clients():
    partition_module.partition_rows.cache_clear()
    all_ids(dealt(seed=77))
    assert partition_module.partition_rows.cache_info().misses == 1


def test_sample_ids_of_one_shard_can_be_changed_without_harm():
    load_shard(DIGITS, dealt(), 0)[0].sample_ids[:] = -1
    assert load_shard(DIGITS, dealt(), 0)[0].sample_ids[0] >= 0


def test_the_fingerprint_tells_images_apart_and_nothing_else():
    first = load_shard(DIGITS, dealt(), 0)[0].fingerprint
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert load_shard(DIGITS, dealt(), 0)[0].fingerprint == first
    assert load_shard(DIGITS, dealt(), 1)[0].fingerprint != first
    one = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    assert shard_module._fingerprint(one) != shard_module._fingerprint(
        one.reshape(1, 1, 8, 4)
    )


def test_to_moves_every_tensor():
    moved = load_shard(DIGITS, dealt(), 0)[0].to("meta")
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
        load_shard(DIGITS, dealt(), partition_id)


def test_more_clients_than_images_are_refused():
    with pytest.raises(
        UserError, match=r"^`num-clients` is 1438; allowed: 1 to 1437, the number"
    ):
        load_shard(DIGITS, dealt(num_clients=1438), 0)


def test_the_server_tests_on_the_whole_test_set():
    digits, test_set = load_image_set(DIGITS), load_test_set(DIGITS)
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
    images = ImageSpec("fashion-mnist")
    partition = dealt(num_clients=10, imbalance_ratio=20.0)
    assert class_counts(images, partition).sum() == 20428
    shards = [load_shard(images, partition, client)[0] for client in range(10)]
    assert [len(shard) for shard in shards] == [2043] * 8 + [2042] * 2
    assert sum(len(shard.test_labels) for shard in shards) == 10000


def power_at_most(count: int, n_max: int, ratio: int, position: int, steps: int):
    """Tell whether count <= n_max * ratio ** (-position / steps), in whole numbers."""
    return count**steps * ratio**position <= n_max**steps


@pytest.mark.parametrize(
    ("num_images", "num_classes", "total", "labels"),
    # Fashion-MNIST, CIFAR-10, CIFAR-100: method §2 at rho = 20.
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
    partition = dealt(imbalance_ratio=4.0, long_tail="step")
    everything = class_counts(DIGITS, dealt())
    assert class_counts(DIGITS, partition).tolist() == [
        min(have, 143 if label < 5 else 35) for label, have in enumerate(everything)
    ]


def test_the_table_counts_the_shards():
    partition = dealt(alpha=0.3)
    counts, names = partition_table(DIGITS, partition)
    assert names == tuple("0123456789")
    for client in range(5):
        labels = load_shard(DIGITS, partition, client)[1]
        assert counts[client].tolist() == labels.bincount(minlength=10).tolist()


def of_one_client(folder, name="folder") -> ImageSpec:
    return ImageSpec(name, str(folder), of_one_client=True)


def test_a_node_s_own_folder_is_its_whole_shard(tmp_path):
    write_tree(tmp_path)
    partition = dealt(num_clients=3, imbalance_ratio=20.0)
    shard, labels = load_shard(of_one_client(tmp_path), partition, 2)
    assert len(shard) == 5
    assert sorted(labels.tolist()) == shard.test_labels.tolist() == [0, 0, 0, 1, 1]


def value_of(path) -> int:
    return int(np.asarray(Image.open(path))[0, 0, 0])


@pytest.mark.parametrize("client", [0, 1, None])
@pytest.mark.parametrize("num_clients", [1, 3])
def test_images_that_are_files_stand_in_the_order_of_their_identities(
    tmp_path, client, num_clients
):
    write_tree(tmp_path, {"cat": 6, "dog": 7})
    own = client is None
    spec = of_one_client(tmp_path) if own else ImageSpec("folder", str(tmp_path))
    partition = dealt(num_clients=num_clients, alpha=100.0)
    shard, labels = load_shard(spec, partition, (client or 0) % num_clients)
    paths = [tmp_path / name for name in shard.files]
    ids = [
        identity_of(name, path.read_bytes())
        for name, path in zip(shard.files, paths, strict=True)
    ]
    assert shard.sample_ids.tolist() == ids == sorted(ids)
    assert shard.images[:, 0, 0, 0].tolist() == [value_of(path) for path in paths]
    names = [shard.class_names[label] for label in labels]
    assert names == [path.parent.name for path in paths]
    assert shard.folder == str(tmp_path)


def test_a_folder_is_dealt_by_its_names_whatever_the_identities_are(tmp_path):
    """The deal is that of rows, as of any other set with these labels."""
    write_tree(tmp_path, {"cat": 9, "dog": 8})
    spec, partition = ImageSpec("folder", str(tmp_path)), dealt(num_clients=3)
    files = load_image_set(spec).files
    assert list(files) == sorted(files)
    rows, _ = partition_rows(spec, partition)
    for client in range(3):
        shard, _ = load_shard(spec, partition, client)
        assert sorted(shard.files) == [files[row] for row in rows[client]]


def test_the_identity_of_a_shard_tells_names_and_order_of_the_classes(tmp_path):
    write_tree(tmp_path / "a", {"cat": 3, "dog": 3})
    picture(99).save(tmp_path / "a" / "train" / "dog" / "more.png")

    def identity(*names: str) -> list[str]:
        spec = replace(of_one_client(tmp_path / "a"), class_names=names)
        return load_shard(spec, dealt(), 0)[0].identity.split()

    plain = identity()
    assert plain[:2] == ["files", "7"]
    assert identity("cat", "dog") == plain
    assert identity("dog", "cat")[2] != plain[2]
    assert identity("cat", "dog", "emu")[2] != plain[2]
    digits = load_shard(DIGITS, dealt(), 2)[0]
    assert digits.identity.split()[:2] == [digits.fingerprint, "287"]
    assert (digits.files, digits.folder) == ((), "")


def test_a_node_s_own_folder_is_named_in_messages(tmp_path):
    with pytest.raises(UserError, match=rf"^`data-path` is '{tmp_path}/x', but there"):
        load_shard(of_one_client(tmp_path / "x"), dealt(), 0)
    with pytest.raises(UserError, match=r"^`data-path` is '/x' in the node config"):
        load_shard(of_one_client("/x", "digits"), dealt(), 0)


def test_a_folder_of_test_images_alone_is_no_shard(tmp_path):
    write_tree(tmp_path, splits=("test",))
    with pytest.raises(UserError, match=r"^`data-path` is .*, which has no training i"):
        load_shard(of_one_client(tmp_path), dealt(), 0)


def unlabeled(tmp_path) -> ImageSpec:
    for value in range(7):
        picture(value).save(tmp_path / f"{value}.png")
    return ImageSpec("folder", str(tmp_path), class_names=("a", "b"))


def test_images_without_labels_are_dealt_in_equal_parts(tmp_path):
    images = unlabeled(tmp_path)
    partition = dealt(partitioner="iid", num_clients=3)
    shards = [load_shard(images, partition, client) for client in range(3)]
    assert [len(shard) for shard, _ in shards] == [3, 2, 2]
    assert {labels for _, labels in shards} == {None}
    files = chain.from_iterable(shard.files for shard, _ in shards)
    assert sorted(files) == [f"{value}.png" for value in range(7)]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({}, r"^`data.partitioner` is 'balanced-dirichlet', which goes by labels, but"),
        ({"imbalance_ratio": 5.0}, r"^`data.imbalance-ratio` is 5; allowed: 1 where"),
        (
            {"partitioner": "iid", "num_clients": 8},
            r"^`num-clients` is 8; allowed: 1 to 7, the number of training images\.$",
        ),
    ],
)
def test_images_without_labels_cannot_be_dealt_by_them(tmp_path, keys, line):
    with pytest.raises(UserError, match=line):
        load_shard(unlabeled(tmp_path), dealt(**keys), 0)


def test_images_without_labels_have_no_table_and_no_counts(tmp_path):
    images = unlabeled(tmp_path)
    with pytest.raises(UserError, match="whose images have no labels to count"):
        partition_table(images, dealt())
    assert class_counts(images, dealt()).tolist() == [0, 0]


SHAPE = ImageSpec(
    "folder", class_names=("cat", "dog", "cow"), image_size=24, channels=3
)


def test_a_server_without_images_knows_their_shape_from_the_spec():
    test_set = empty_test_set(SHAPE)
    assert test_set.images.shape == (0, 3, 24, 24)
    assert test_set.labels.shape == (0,)
    assert test_set.class_names == ("cat", "dog", "cow")
    assert (test_set.mean, test_set.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_server_without_images_agrees_with_the_nodes(tmp_path):
    server = dataclasses.replace(SHAPE, normalization="imagenet")
    node = dataclasses.replace(
        server, folder=str(write_tree(tmp_path)), of_one_client=True
    )
    test_set, (shard, _) = empty_test_set(server), load_shard(node, dealt(), 0)
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
        empty_test_set(ImageSpec("folder", image_size=24))


def test_a_server_whose_folder_has_no_test_images_is_told_of_the_key(tmp_path):
    write_tree(tmp_path, splits=("train",))
    with pytest.raises(UserError, match=r"no test images for the server; add them, or"):
        load_test_set(ImageSpec("folder", str(tmp_path)))


def test_fewer_images_than_clients_in_a_folder(tmp_path):
    images = ImageSpec("folder", str(write_tree(tmp_path)))
    with pytest.raises(UserError, match=r"^`num-clients` is 6; allowed: 1 to 5"):
        load_shard(images, dealt(num_clients=6), 0)
