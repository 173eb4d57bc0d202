"""The balanced Dirichlet deal of method §2.2, and a slow twin of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairfal_flwr.data import (
    ImageSpec,
    PartitionSpec,
    balanced_dirichlet,
    long_tail_counts,
    partition_table,
)
from fairfal_flwr.data.balanced_dirichlet import (
    deal_by_proportions,
    deal_in_equal_sizes,
)
from fairfal_flwr.data.fashion_mnist import DEBIAN_FOLDER
from fairfal_flwr.errors import UserError

PUBLISHED_ROWS = {  # client: Fashion-MNIST with rho 20 dealt with alpha 0.1
    0: [0, 1047, 421, 141, 92, 5, 3, 82, 252, 0],
    3: [1649, 2, 1, 0, 0, 0, 203, 129, 55, 4],
}


def deal(labels, num_clients, alpha, seed=0, num_classes=10):
    return balanced_dirichlet.balanced_dirichlet(
        labels, num_clients, alpha, seed, num_classes=num_classes
    )


def paper_labels() -> np.ndarray:
    """Return the labels of Fashion-MNIST with the paper's long tail."""
    return np.repeat(np.arange(10), long_tail_counts(60000, 10, 20))


def class_table(labels, rows, num_classes=10) -> np.ndarray:
    return np.array([np.bincount(labels[part], minlength=num_classes) for part in rows])


def test_the_paper_s_clients_have_2043_or_2042_images_and_label_102_a_cycle():
    rows, proportions = deal(paper_labels(), 10, 0.1)
    sizes = [len(part) for part in rows]
    assert sizes == [2043] * 8 + [2042] * 2
    assert {int(0.05 * size) for size in sizes} == {102}
    assert proportions.shape == (10, 10)


def test_seed_0_deals_the_table_of_the_published_experiments():
    labels = paper_labels()
    table = class_table(labels, deal(labels, 10, 0.1, seed=0)[0])
    for client, row in PUBLISHED_ROWS.items():
        assert table[client].tolist() == row
    assert table[8, [1, 2, 9]].tolist() == [1213, 823, 6]
    other = class_table(labels, deal(labels, 10, 0.1, seed=1)[0])
    assert other.tolist() != table.tolist()


@pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_the_table_of_fashion_mnist_is_the_published_one_whatever_the_run_s_seed():
    images = ImageSpec("fashion-mnist")
    partition = PartitionSpec(
        num_clients=10, seed=4, partition_seed=0, imbalance_ratio=20.0, alpha=0.1
    )
    table, _ = partition_table(images, partition)
    for client, row in PUBLISHED_ROWS.items():
        assert table[client].tolist() == row


def slow_table(sizes: list[int], proportions: np.ndarray) -> list[list[int]]:
    """Deal class sizes one sample after the other, by the words of method §2.2."""
    num_clients, num_classes = proportions.shape
    counts = [[0] * num_classes for _ in range(num_clients)]
    for c, size in enumerate(sizes):
        shares = [np.float32(p) * np.float32(size) for p in proportions[:, c]]
        for k, share in enumerate(shares):
            counts[k][c] = int(share)
        by_remainder = sorted(
            range(num_clients), key=lambda k: (int(shares[k]) - shares[k], k)
        )
        while sum(row[c] for row in counts) < size:
            for k in by_remainder:
                if sum(row[c] for row in counts) < size:
                    counts[k][c] += 1
    slowly_meet_quotas(counts)
    return counts


def slowly_meet_quotas(counts: list[list[int]]) -> None:
    """Move one sample at a time, in passes, from the richest donor of the class."""
    num_clients, total = len(counts), sum(map(sum, counts))
    quota = [
        total // num_clients + (k < total % num_clients) for k in range(num_clients)
    ]

    def lacks(k: int) -> int:
        return quota[k] - sum(counts[k])

    while any(lacks(k) > 0 for k in range(num_clients)):
        clients = range(num_clients)
        receivers = sorted(
            (k for k in clients if lacks(k) > 0), key=lambda k: -lacks(k)
        )
        donors = sorted((k for k in clients if lacks(k) < 0), key=lacks)
        for c in range(len(counts[0])):
            supply = {k: min(counts[k][c], -lacks(k)) for k in donors}
            for receiver in receivers:
                while lacks(receiver) > 0 and max(supply.values()) > 0:
                    donor = max(donors, key=supply.__getitem__)
                    supply[donor] -= 1
                    counts[donor][c] -= 1
                    counts[receiver][c] += 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any),
    num_clients=st.integers(1, 7),
    alpha=st.sampled_from([1e-6, 0.02, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 50),
)
def test_the_deal_is_that_of_its_slow_twin(sizes, num_clients, alpha, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    num_clients = min(num_clients, len(labels))
    rows, proportions = deal(labels, num_clients, alpha, seed, len(sizes))
    table = class_table(labels, rows, len(sizes))
    assert table.tolist() == slow_table(sizes, proportions)


def test_the_paper_s_deal_is_that_of_its_slow_twin():
    labels = paper_labels()
    for alpha in (0.1, 100.0):
        rows, proportions = deal(labels, 10, alpha)
        twin = slow_table(np.bincount(labels).tolist(), proportions)
        assert class_table(labels, rows).tolist() == twin


def test_largest_remainders_by_hand():
    shares = np.array([[1.5, 0.5, 0.0], [0.7, 0.5, 3.0], [0.8, 0.0, 0.0]])
    # Left over: 2 to .8 and .7; 1 to the lower of two equal rows; none.
    expected = [[1, 1, 0], [1, 0, 3], [1, 0, 0]]
    sizes = np.array([3, 1, 3])
    assert balanced_dirichlet._largest_remainder(shares, sizes).tolist() == expected


def test_a_class_that_no_client_drew_goes_to_all():
    shares = np.array([[1e-9], [3e-9], [2e-9]])
    sizes = np.array([8])
    dealt = balanced_dirichlet._largest_remainder(shares, sizes)
    assert dealt[:, 0].tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    ("counts", "quotas", "expected"),
    [
        # Nothing to do.
        ([[2, 1], [1, 2]], [3, 3], [[2, 1], [1, 2]]),
        # Client 0 has 2 too many and gives them in the first class.
        ([[5, 1], [0, 2]], [4, 4], [[3, 1], [2, 2]]),
        # Client 0 has 4 too many; the lower of two that lack 2 each takes all it lacks.
        ([[1, 5], [0, 0], [0, 0]], [2, 2, 2], [[0, 2], [1, 1], [0, 2]]),
        # Client 2 lacks most, so it takes first, all of class 0; then 1 is left to 1.
        ([[2, 4], [0, 2], [0, 1]], [3, 3, 3], [[0, 3], [0, 3], [2, 1]]),
        # Client 1 lacks 3, then 1, and still comes before client 2, which lacks 2.
        (
            [[2, 1, 3], [0, 0, 0], [0, 0, 0]],
            [1, 3, 2],
            [[0, 0, 1], [2, 1, 0], [0, 0, 2]],
        ),
        # Two give, 1 of class 0 and 2 of class 1.
        ([[4, 0], [0, 5], [0, 0]], [3, 3, 3], [[3, 0], [0, 3], [1, 2]]),
    ],
)
def test_quotas_by_hand(counts, quotas, expected):
    moved = balanced_dirichlet._meet_quotas(np.array(counts), np.array(quotas))
    assert moved.tolist() == expected


def test_proportions_agree_with_the_plain_computation():
    torch.manual_seed(0)
    rows = [
        torch.distributions.Dirichlet(torch.full((4,), 2.0)).sample() for _ in "123456"
    ]
    plain = torch.stack(rows).double().numpy()
    for _ in range(5):
        plain /= plain.sum(axis=1, keepdims=True)
        plain /= plain.sum(axis=0, keepdims=True)
    ours = balanced_dirichlet._balanced_proportions(
        6, 4, 2.0, torch.Generator().manual_seed(0)
    )
    assert ours.dtype == np.float32
    assert ours == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0005, 0.0099, 0.01, 0.3, 50.0])
def test_draws_before_normalization_are_dirichlet(monkeypatch, alpha):
    """Shares have mean 1 / C and variance (1 / C) (1 - 1 / C) / (C alpha + 1)."""
    monkeypatch.setattr(balanced_dirichlet, "_NUM_ALTERNATIONS", 0)
    draws = balanced_dirichlet._balanced_proportions(
        20000, 4, alpha, torch.Generator().manual_seed(0)
    )
    assert draws.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert draws.mean(axis=0) == pytest.approx(0.25, abs=0.015)
    assert draws.var() == pytest.approx(0.1875 / (4 * alpha + 1), rel=0.03)


def test_a_large_alpha_gives_every_client_the_same_mixture():
    labels = paper_labels()
    rows, proportions = deal(labels, 10, 1e6)
    assert proportions == pytest.approx(np.full((10, 10), 0.1), abs=1e-3)
    table = class_table(labels, rows)
    assert np.abs(table - table.mean(axis=0)).max() < 8


def test_a_small_alpha_gives_clients_few_classes():
    labels = np.arange(5000) % 10
    few, many = (
        class_table(labels, deal(labels, 10, alpha)[0]) for alpha in (0.1, 100)
    )
    assert (few == 0).sum() > 20
    assert (many == 0).sum() == 0


def test_the_same_generator_deals_the_same():
    labels = np.arange(500) % 10

    def rows(seed: int) -> list[list[int]]:
        return [part.tolist() for part in deal(labels, 5, 0.5, seed)[0]]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_samples_of_a_class_are_dealt_at_random():
    labels = np.zeros(1000, dtype=np.int64)
    first, _ = deal(labels, 2, 1.0, num_classes=1)[0]
    assert first.tolist() != list(range(500))
    assert 200 < (first < 500).sum() < 300


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    num_clients=st.integers(2, 500),
    surplus=st.integers(0, 2000),
    exponent=st.floats(-3, 6),
    weights=st.lists(st.sampled_from([0, 0, 1, 5, 50]), min_size=1, max_size=20),
    seed=st.integers(0, 2**32),
)
def test_every_row_has_one_owner_and_every_quota_is_met(
    num_clients, surplus, exponent, weights, seed
):
    num_samples, num_classes = num_clients + surplus, len(weights)
    chances = np.array(weights) + (sum(weights) == 0)
    labels = np.random.default_rng(seed).choice(
        num_classes, size=num_samples, p=chances / chances.sum()
    )
    rows, proportions = deal(labels, num_clients, 10**exponent, seed, num_classes)
    quota, extra = divmod(num_samples, num_clients)
    assert [len(part) for part in rows] == [
        quota + (client < extra) for client in range(num_clients)
    ]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(num_samples))
    assert all(np.all(np.diff(part) > 0) for part in rows)
    assert proportions.min() >= 0
    sums = proportions.sum(axis=0)
    assert sums[sums > 1e-6] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("alpha", [5e-324, 1e-12, 1e12, 1.7e308])
def test_no_positive_alpha_breaks_the_deal(alpha):
    labels = np.arange(300) % 10
    rows, proportions = deal(labels, 7, alpha)
    assert np.isfinite(proportions).all()
    assert sum(len(part) for part in rows) == 300


def test_one_client_gets_everything():
    rows, proportions = deal(np.arange(30) % 10, 1, 0.1)
    assert [part.tolist() for part in rows] == [list(range(30))]
    assert proportions == pytest.approx(np.ones((1, 10)))


def test_as_many_clients_as_samples_get_one_each():
    rows, _ = deal(np.arange(30) % 10, 30, 0.1)
    assert [len(part) for part in rows] == [1] * 30


@pytest.mark.parametrize("num_clients", [0, 31])
def test_more_clients_than_samples_or_none_are_refused(num_clients):
    with pytest.raises(
        UserError,
        match=rf"^`num-clients` is {num_clients}; allowed: 1 to 30, the number of "
        r"training images\.$",
    ):
        deal(np.arange(30) % 10, num_clients, 0.1)


def test_a_test_set_is_dealt_by_its_columns():
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    proportions = np.array([[0.75, 0.5], [0.25, 0.5], [0.0, 0.0]])
    rows = deal_by_proportions(labels, proportions, np.random.default_rng(0))
    # 4 * (.75, .25) and 3 * (.5, .5), whose odd one goes to the lower client.
    assert class_table(labels, rows, 2).tolist() == [[3, 2], [1, 1], [0, 0]]
    assert np.sort(np.concatenate(rows)).tolist() == list(range(7))


def test_test_images_are_dealt_like_training_images():
    labels = np.arange(60000) % 10
    _, proportions = deal(labels, 10, 0.1)
    test_labels = np.arange(10003) % 10
    rows = deal_in_equal_sizes(test_labels, proportions, np.random.default_rng(1))
    assert [len(part) for part in rows] == [1001] * 3 + [1000] * 7
    twin = slow_table(np.bincount(test_labels).tolist(), proportions)
    assert class_table(test_labels, rows).tolist() == twin
