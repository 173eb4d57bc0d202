"""The balanced Dirichlet deal of method §2."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairfal_flwr.data import balanced_dirichlet, long_tail_counts
from fairfal_flwr.data.balanced_dirichlet import deal_by_proportions
from fairfal_flwr.errors import UserError


def deal(labels, num_clients, alpha, seed=0, num_classes=10):
    return balanced_dirichlet.balanced_dirichlet(
        labels,
        num_clients,
        alpha,
        np.random.default_rng(seed),
        num_classes=num_classes,
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


def test_largest_remainders_by_hand():
    shares = np.array([[1.5, 0.5, 0.0], [0.7, 0.5, 3.0], [0.8, 0.0, 0.0]])
    # Left over: 2 to .8 and .7; 1 to the lower of two equal rows; none.
    expected = [[1, 1, 0], [1, 0, 3], [1, 0, 0]]
    assert balanced_dirichlet._largest_remainder(shares).tolist() == expected


@pytest.mark.parametrize(
    ("counts", "quotas", "expected"),
    [
        # Nothing to do.
        ([[2, 1], [1, 2]], [3, 3], [[2, 1], [1, 2]]),
        # Client 0 has 2 too many and gives them in the first class.
        ([[5, 1], [0, 2]], [4, 4], [[3, 1], [2, 2]]),
        # Client 0 has 4 too many: its only sample of class 0 goes to the lower of two
        # clients that lack 2 each; then they lack 1 and 2 of class 1.
        ([[1, 5], [0, 0], [0, 0]], [2, 2, 2], [[0, 2], [1, 1], [0, 2]]),
        # Two give, 1 of class 0 and 2 of class 1.
        ([[4, 0], [0, 5], [0, 0]], [3, 3, 3], [[3, 0], [0, 3], [1, 2]]),
    ],
)
def test_quotas_by_hand(counts, quotas, expected):
    moved = balanced_dirichlet._meet_quotas(np.array(counts), np.array(quotas))
    assert moved.tolist() == expected


def test_proportions_agree_with_the_plain_computation():
    shape, alpha = (6, 4), 2.0
    generator = np.random.default_rng(3)
    gamma = generator.standard_gamma(alpha + 1, shape)
    plain = gamma * np.exp(-generator.standard_exponential(shape) / alpha)
    for _ in range(5):
        plain /= plain.sum(axis=1, keepdims=True)
        plain /= plain.sum(axis=0, keepdims=True)
    ours = balanced_dirichlet._balanced_proportions(
        *shape, alpha, np.random.default_rng(3)
    )
    assert ours == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 50.0])
def test_draws_before_normalization_are_gamma(monkeypatch, alpha):
    """Normalized Gamma(alpha) draws are Dirichlet(alpha); mean and variance: alpha."""
    monkeypatch.setattr(balanced_dirichlet, "_NUM_ALTERNATIONS", 0)
    draws = balanced_dirichlet._balanced_proportions(
        400, 500, alpha, np.random.default_rng(0)
    )
    assert draws.mean() == pytest.approx(alpha, rel=0.02)
    assert draws.var() == pytest.approx(alpha, rel=0.05)


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
    assert proportions.sum(axis=0) == pytest.approx(np.ones(num_classes))


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


def test_training_and_test_images_follow_the_same_proportions():
    labels = np.arange(60000) % 10
    _, proportions = deal(labels, 10, 0.5)
    test_labels = np.arange(10000) % 10
    test_rows = deal_by_proportions(test_labels, proportions, np.random.default_rng(1))
    assert class_table(test_labels, test_rows) == pytest.approx(
        1000 * proportions, abs=1
    )
