"""What a run config says of the images, as the two values that data/ takes."""

from dataclasses import asdict, fields

import pytest

from fairfal_flwr.config import DataConfig, RunConfig
from fairfal_flwr.data import ImageSpec, PartitionSpec

CHANGES = {
    "name": "npz",
    "class-names": "cat, dog",
    "image-size": 24,
    "channels": 3,
    "normalization": "half",
    "memory-mb": 7,
    "long-tail": "step",
    "imbalance-ratio": 3.0,
    "partitioner": "iid",
    "alpha": 9.0,
    "classes-per-client": 4,
    "partition-seed": 5,
}
NO_PART_OF_A_SPEC = {"server-test", "cache-mb"}


def specs(**keys) -> dict:
    config = RunConfig.from_flat(keys)
    return asdict(config.image_spec()) | asdict(config.partition_spec())


def test_every_key_of_the_section_is_thought_of():
    keys = {field.alias for field in DataConfig.model_fields.values()}
    assert keys == CHANGES.keys() | NO_PART_OF_A_SPEC


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_of_the_section_changes_its_own_field(key):
    value = CHANGES[key]
    expected = ("cat", "dog") if key == "class-names" else value
    # What a set says of its own images would change with its name.
    dealt = {"data.partitioner": "shard", "data.imbalance-ratio": 2.0}
    if key in ("partitioner", "alpha"):
        dealt["data.partitioner"] = "dirichlet"
    changed = specs(**dealt | {f"data.{key}": value}).items() - specs(**dealt).items()
    assert changed == {(key.replace("-", "_"), expected)}


@pytest.mark.parametrize("key", sorted(NO_PART_OF_A_SPEC))
def test_what_is_no_part_of_a_spec_changes_none(key):
    value = {"server-test": False, "cache-mb": 1}[key]
    tested = {"federation.fraction-evaluate": 1.0}
    assert specs(**tested, **{f"data.{key}": value}) == specs()


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("digits", (5.0, "balanced-dirichlet")),
        ("hf:owner/set", (5.0, "balanced-dirichlet")),
        ("folder", (1.0, "iid")),
        ("npz", (1.0, "iid")),
    ],
)
def test_own_images_are_used_as_they_are_found(name, usual):
    def of(**keys):
        data = RunConfig.from_flat({"data.name": name, **keys}).data
        return data.imbalance_ratio, data.partitioner

    assert of() == usual
    assert of(**{"data.imbalance-ratio": 7.0}) == (7.0, usual[1])
    assert of(**{"data.partitioner": "shard"}) == (usual[0], "shard")


def test_the_seed_is_that_of_the_deal_unless_it_has_its_own():
    follows = RunConfig.from_flat({"seed": 3, "num-clients": 7}).partition_spec()
    assert (follows.seed, follows.partition_seed, follows.num_clients) == (3, 3, 7)
    own = RunConfig.from_flat({"seed": 3, "data.partition-seed": 0}).partition_spec()
    assert (own.seed, own.partition_seed) == (3, 0)


def test_a_node_s_own_path_wins_over_the_folder_of_all():
    config = RunConfig.from_flat({"data-dir": "/all"})
    shared, own = config.image_spec(), config.image_spec("/own")
    assert (shared.folder, shared.of_one_client) == ("/all", False)
    assert (own.folder, own.of_one_client) == ("/own", True)
    assert (shared.place, own.place) == (
        "`data-dir` is '/all'",
        "`data-path` is '/own'",
    )
    assert ImageSpec("digits").place == "`data.name` is 'digits'"


def test_specs_are_values():
    for kind in (ImageSpec("a"), PartitionSpec()):
        with pytest.raises(AttributeError):
            setattr(kind, fields(kind)[0].name, "b")
    assert len({ImageSpec("a"), ImageSpec("a"), ImageSpec("b")}) == 2
