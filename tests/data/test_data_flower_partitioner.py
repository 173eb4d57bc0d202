"""The deal as flwr-datasets sees it: the same rows as `load_shard`.

Slow for its imports: flwr-datasets takes as long as all other tests of the folder.
"""

from typing import Any

import numpy as np
import pytest

from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_image_set, load_shard
from fairfal_flwr.data.shard import _training_rows
from fairfal_flwr.errors import UserError

pytestmark = pytest.mark.slow


def partitioner(dataset: Any, num_partitions: int, alpha: float, seed: int = 0) -> Any:
    from fairfal_flwr.data.flower_partitioner import BalancedDirichletPartitioner

    made = BalancedDirichletPartitioner(num_partitions, "label", alpha, seed)
    made.dataset = dataset
    return made


@pytest.mark.parametrize("ratio", [1.0, 20.0, 1000.0])
def test_flower_s_partitions_are_the_shards(ratio):
    from datasets import ClassLabel, Dataset, Features, Value

    run = RunConfig.from_flat(
        {"seed": 3, "data.imbalance-ratio": ratio, "data.alpha": 0.3}
    )
    rows = _training_rows("digits", "", ratio, 3)
    labels = load_image_set("digits", "").train_labels.numpy()[rows]
    dataset = Dataset.from_dict(
        {"label": labels, "row": rows},
        features=Features({"label": ClassLabel(num_classes=10), "row": Value("int64")}),
    )
    parts = partitioner(dataset, 5, 0.3, seed=3)
    assert parts.num_partitions == 5
    for client in range(5):
        mine = np.asarray(parts.load_partition(client)["row"][:])
        assert np.array_equal(mine, load_shard(run, client)[0].sample_ids)


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
