"""For how many samples a query asks while people are slow or cannot tell."""

import pytest
from sample_ids import ids

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.pool import Pool
from fairfal_flwr.client.questions import Counts
from fairfal_flwr.config import RunConfig

CONFIG = RunConfig.from_flat({"campaign.budget": 0.25})


@pytest.fixture
def pool(tmp_path):
    """Return a pool of 40 images, of which 10 are asked for in a cycle."""
    return Pool(CONFIG, 0, None, Ledger(tmp_path / "client.sqlite", "abc 40 def"))


def ask(pool, cycle, first):
    """Ask for as many samples as the cycle wants, from a number on."""
    pool.ledger.close(cycle - 1)
    samples = ids(*range(first, first + pool.wanted(cycle)))
    pool.ledger.record_selection(cycle, "random", samples)
    return samples.tolist()


def answer(pool, samples, label=1):
    for sample in samples:
        pool.ledger.answer(sample, label, "Ann")


def test_open_questions_take_their_part_and_what_nobody_can_tell_gives_it_back(pool):
    first = ask(pool, 1, 0)
    assert len(first) == 10
    answer(pool, first[:6])
    answer(pool, first[6:7], None)
    assert pool.ledger.counts(1) == Counts(labeled=6, set_aside=1, waiting=3)
    second = ask(pool, 2, 100)
    assert len(second) == 10 - 3 + 1
    # Who can tell it after all takes the budget back that was given for it.
    answer(pool, first[6:] + second)
    assert pool.ledger.counts(2) == Counts(labeled=18, set_aside=0, waiting=0)
    assert len(ask(pool, 3, 200)) == 10 - 1


def test_labels_and_open_questions_are_never_more_than_the_budgets_so_far(pool):
    """Whoever sets all aside is asked for all of it again."""
    answer(pool, ask(pool, 1, 0), None)
    second = ask(pool, 2, 100)
    assert len(second) == 20
    answer(pool, second, None)
    assert pool.wanted(3) == 30


def test_where_nobody_answers_nothing_more_is_asked(pool):
    ask(pool, 1, 0)
    assert ask(pool, 2, 100) == []
    assert ask(pool, 3, 100) == []
    assert pool.ledger.counts(3) == Counts(labeled=0, set_aside=0, waiting=10)


def test_a_cycle_that_was_missed_loses_no_budget_that_was_given_back(pool):
    """Cycle 2 went by without it; two were set aside, before that and after."""
    first = ask(pool, 1, 0)
    answer(pool, first[:1], None)
    pool.ledger.close(1)
    answer(pool, first[1:2], None)
    answer(pool, first[2:])
    assert pool.wanted(3) == 10 + 2
    ask(pool, 3, 100)
    answer(pool, range(100, 112))
    assert pool.wanted(4) == 10


def test_a_query_that_is_repeated_wants_what_it_wanted(pool):
    first = ask(pool, 1, 0)
    answer(pool, first[:5])
    assert len(ask(pool, 2, 100)) == 5
    answer(pool, first[5:])
    assert pool.wanted(2) == 5
    assert pool.wanted(1) == 10
