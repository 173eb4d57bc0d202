"""The long tail of method §2."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairfal_flwr.data import long_tail_counts, long_tail_rows


def test_fashion_mnist_at_ratio_20_has_20428_images():
    counts = long_tail_counts(60000, 10, 20)
    assert counts.tolist() == [6000, 4301, 3083, 2210, 1584, 1135, 814, 583, 418, 300]
    assert counts.sum() == 20428


@pytest.mark.parametrize(
    ("num_images", "num_classes", "ratio", "expected"),
    [
        (30, 3, 1, [10, 10, 10]),
        (30, 3, 4, [10, 5, 2]),  # 10, 10 / 2, 10 / 4 = 2.5
        (98, 2, 49, [49, 1]),  # 49 * (1 / 49) is 0.9999999999999999
        (50000, 100, 100, None),
        (7, 1, 20, [7]),
        (1437, 10, 1000, [143, 66, 30, 14, 6, 3, 1, 0, 0, 0]),
    ],
)
def test_counts_by_hand(num_images, num_classes, ratio, expected):
    counts = long_tail_counts(num_images, num_classes, ratio)
    assert counts.dtype == np.int64
    if expected is None:
        assert (counts[0], counts[-1]) == (500, 5)
    else:
        assert counts.tolist() == expected


def test_a_class_smaller_than_its_count_gives_all_it_has():
    labels = np.repeat([0, 1, 2], [2, 12, 1])  # n_max = 5, counts 5, 3, 2
    rows = long_tail_rows(labels, 2.5, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [2, 3, 1]
    assert {0, 1, 14} <= set(rows.tolist())


def test_ratio_1_keeps_every_image_of_unequal_classes():
    labels = np.repeat([0, 1, 2], [2, 12, 1])
    rows = long_tail_rows(labels, 1.0, np.random.default_rng(0))
    assert rows.tolist() == list(range(15))
    assert rows.dtype == np.int64


def test_the_generator_decides_which_images_are_kept():
    labels = np.arange(1000) % 10

    def draw(seed: int) -> list[int]:
        return long_tail_rows(labels, 10, np.random.default_rng(seed)).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=300),
    st.floats(1, 1000),
    st.integers(0, 9),
)
def test_rows_are_distinct_ascending_and_within_the_counts(classes, ratio, seed):
    labels = np.array(classes, dtype=np.int64)
    rows = long_tail_rows(labels, ratio, np.random.default_rng(seed))
    assert np.all(np.diff(rows) > 0)
    have = np.bincount(labels)
    if ratio > 1:
        want = long_tail_counts(len(labels), len(have), ratio)
        kept = np.bincount(labels[rows], minlength=len(have))
        assert kept.tolist() == np.minimum(have, want).tolist()
