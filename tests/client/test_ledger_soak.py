"""A seeded sample of `make soak`: killed writers, damaged files, crowded openings."""

import pytest
from soak import ledger as soak


def bad(found):
    return {what: found[what] for what in soak.BAD if found[what]}


def test_a_killed_writer_loses_nothing(tmp_path):
    found = soak.kills(tmp_path, 2, seed=1)
    assert found["kills"] == 2
    assert bad(found) == {}


def test_no_damage_is_silent(tmp_path):
    found = soak.damages(tmp_path, flips=14, cuts=6, seed=1)
    assert found["named"] > 10
    assert found["named"] + found["without effect"] == 20
    assert bad(found) == {}


def test_processes_that_open_a_new_ledger_together_all_succeed(tmp_path):
    found = soak.openings(tmp_path, rounds=8, processes=3)
    assert found["openings"] == 24
    assert bad(found) == {}


@pytest.mark.parametrize("lines", [["here", '["answer", [[3, 1]]]'], ["here"]])
def test_what_was_under_way_may_be_there_or_not(lines):
    truths = [one.answers for one in soak.Truth().after(lines)]
    assert truths == ([{}, {3: 1}] if len(lines) > 1 else [{}])
