"""Image sets, the long tail, the deal of images to clients, and one client's shard.

`fairfal_flwr.data.flower_partitioner` is left out of this list on purpose: importing
flwr-datasets takes seconds, and a client process starts anew for every message.
"""

from fairfal_flwr.data.datasets import SOURCES, load_image_set
from fairfal_flwr.data.deal import class_counts, partition_table
from fairfal_flwr.data.image_set import ImageSet, Request, Source
from fairfal_flwr.data.longtail import long_tail_counts, long_tail_rows
from fairfal_flwr.data.partition import balanced_dirichlet, deal_by_proportions
from fairfal_flwr.data.shard import (
    EvaluationSet,
    Shard,
    load_shard,
    load_test_set,
)

__all__ = [
    "SOURCES",
    "EvaluationSet",
    "ImageSet",
    "Request",
    "Shard",
    "Source",
    "balanced_dirichlet",
    "class_counts",
    "deal_by_proportions",
    "load_image_set",
    "load_shard",
    "load_test_set",
    "long_tail_counts",
    "long_tail_rows",
    "partition_table",
]
