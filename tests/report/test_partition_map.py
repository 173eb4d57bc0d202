"""The heat map of classes and clients."""

import numpy as np
import pytest

from fairfal_flwr.report.partition_map import draw_partition_map


@pytest.mark.parametrize("shape", [(1, 2), (3, 25)])
def test_a_picture_is_written_whatever_the_size(tmp_path, shape):
    counts = np.arange(np.prod(shape)).reshape(shape)
    names = [f"class number {label} of many" for label in range(shape[1])]
    draw_partition_map(counts, names, tmp_path / "map.png", title="a deal")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
