"""Image sets, the long tail, the deal of images to clients, and one client's shard.

An `ImageSpec` says which images, a `PartitionSpec` how they are dealt. Nothing here
knows the run configuration, so a notebook can load a shard by itself.

`fairfal_flwr.data.flower_partitioner` is left out of this list on purpose: importing
flwr-datasets takes seconds, and a client process starts anew for every message.
"""

from fairfal_flwr.data.cache import ShardCache
from fairfal_flwr.data.datasets import SOURCES, load_image_set
from fairfal_flwr.data.evaluation import EvaluationSet, empty_test_set, load_test_set
from fairfal_flwr.data.image_set import ImageSet, Source
from fairfal_flwr.data.longtail import long_tail_counts, long_tail_rows
from fairfal_flwr.data.partition import (
    class_counts,
    partition_rows,
    partition_table,
)
from fairfal_flwr.data.shard import Shard, load_shard
from fairfal_flwr.data.specs import ImageSpec, PartitionSpec

__all__ = [
    "SOURCES",
    "EvaluationSet",
    "ImageSet",
    "ImageSpec",
    "PartitionSpec",
    "Shard",
    "ShardCache",
    "Source",
    "class_counts",
    "empty_test_set",
    "load_image_set",
    "load_shard",
    "load_test_set",
    "long_tail_counts",
    "long_tail_rows",
    "partition_rows",
    "partition_table",
]
