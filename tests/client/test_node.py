"""Which client a node is, and whose images it has."""

import pytest

from fairfal_flwr.client.node import client_index
from fairfal_flwr.errors import UserError


def test_a_partition_is_a_client():
    assert client_index({"partition-id": 2, "num-partitions": 3}, 3) == 2


def test_a_node_with_images_of_its_own_needs_no_number_of_partitions():
    assert client_index({"data-path": "/scans", "partition-id": 1}, 3) == 1
    both = {"data-path": "/scans", "partition-id": 1, "num-partitions": 3}
    assert client_index(both, 3) == 1


@pytest.mark.parametrize(
    ("node_config", "line"),
    [
        (
            {},
            r"no num-partitions and no partition-id; start the SuperNode with "
            r"--node-config 'partition-id=0 num-partitions=3' \(ids from 0\)\.$",
        ),
        ({"partition-id": 0}, "no num-partitions; start"),
        (
            {"data-path": "/x"},
            r"no partition-id; start the SuperNode with "
            r"--node-config 'data-path=\"/x\" partition-id=0'",
        ),
        ({"data-path": "/x", "partition-id": 3}, "partition 3 of 3, but `num-clients`"),
        ({"partition-id": 0, "num-partitions": 4}, "partition 0 of 4, but `num-cli"),
        ({"partition-id": -1, "num-partitions": 3}, "partition -1 of 3"),
    ],
)
def test_a_contradiction_is_one_line(node_config, line):
    with pytest.raises(UserError, match=line) as error:
        client_index(node_config, 3)
    assert "\n" not in str(error.value)
