"""A person's answers: one commit each, "cannot tell", second thoughts; all are rows."""

import sqlite3

import pytest
from sample_ids import ids

from fairfal_flwr.client import ledger as ledger_module
from fairfal_flwr.client import ledger_file
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.questions import Answer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "campaign" / "client-0000.sqlite"


@pytest.fixture
def ledger(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(9, 4, 7))
    return ledger


def as_of(ledger, cycle):
    return dict(zip(*(array.tolist() for array in ledger.labeled(cycle)), strict=True))


def rows(path):
    with sqlite3.connect(path) as db:
        return db.execute(
            "SELECT sample_id, action, label, annotator FROM answer ORDER BY number"
        ).fetchall()


def test_one_answer_is_a_row_that_the_next_process_sees(ledger, path):
    ledger.answer(4, 2, "ann")
    assert as_of(Ledger(path, "abc"), 1) == {4: 2}
    assert rows(path) == [(4, "label", 2, "ann")]
    assert ledger.answered().tolist() == [4]
    assert ledger.unanswered().tolist() == [9, 7]


def test_a_sample_that_nobody_can_tell_is_neither_labeled_nor_waiting(ledger, path):
    ledger.answer(4, None, "ann")
    ledger.answer(9, None, "ann")
    assert as_of(ledger, 1) == {}
    assert ledger.answered().tolist() == []
    assert ledger.unanswered().tolist() == [7]
    assert ledger.set_aside(1).tolist() == [4, 9]
    ledger.answer(4, 1, "bob")
    assert as_of(ledger, 1) == {4: 1}
    assert ledger.set_aside(1).tolist() == [9]
    assert rows(path)[0] == (4, "set-aside", None, "ann")


def test_a_relabel_is_a_row_and_keeps_the_first(ledger, path):
    ledger.answer(4, 2, "ann")
    ledger.answer(4, 3, "bob")
    assert as_of(ledger, 1) == {4: 3}
    assert rows(path) == [(4, "label", 2, "ann"), (4, "label", 3, "bob")]


def test_an_answer_that_is_withdrawn_waits_again(ledger, path):
    ledger.answer(4, 2, "ann")
    ledger.answer(9, None, "ann")
    ledger.withdraw(4, "ann")
    ledger.withdraw(9, "ann")
    assert as_of(ledger, 1) == {}
    assert ledger.answered().tolist() == []
    assert ledger.set_aside(1).tolist() == []
    assert ledger.unanswered().tolist() == [9, 4, 7]
    assert rows(path)[2:] == [
        (4, "withdraw", None, "ann"),
        (9, "withdraw", None, "ann"),
    ]
    ledger.answer(4, 1, "ann")
    assert as_of(ledger, 1) == {4: 1}


def test_withdrawing_nothing_is_no_row(ledger, path):
    ledger.withdraw(4, "ann")
    ledger.answer(4, 2, "ann")
    ledger.withdraw(4, "ann")
    ledger.withdraw(4, "ann")
    assert len(rows(path)) == 2


def test_a_closed_cycle_keeps_what_is_withdrawn_or_set_aside_later(ledger):
    ledger.answer(4, 2, "ann")
    ledger.answer(9, 5, "ann")
    ledger.answer(7, None, "ann")
    ledger.close(1)
    ledger.withdraw(4, "ann")
    ledger.answer(9, None, "ann")
    ledger.answer(7, 6, "ann")
    assert as_of(ledger, 1) == {4: 2, 9: 5}
    assert as_of(ledger, 2) == {7: 6}
    assert ledger.set_aside(1).tolist() == [7]
    assert ledger.set_aside(2).tolist() == [9]


def test_only_what_was_asked_for_can_be_answered(ledger):
    with pytest.raises(KeyError):
        ledger.answer(5, 1, "ann")
    with pytest.raises(KeyError):
        ledger.answer_all([Answer(4, 1, "ann"), Answer(5, 1, "ann")])
    with pytest.raises(KeyError):
        ledger.withdraw(5, "ann")
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_answers(ids(4, 5), ids(1, 1), "oracle")
    assert ledger.answered().tolist() == []


def test_each_answer_and_each_batch_is_one_entry(ledger):
    before = ledger.head.entries
    ledger.answer(4, 1, "ann")
    ledger.record_answers(ids(9, 7), ids(1, 1), "oracle")
    assert ledger.head.entries == before + 2


def test_what_writes_nothing_is_no_entry(ledger):
    ledger.close(1)
    head = ledger.head
    ledger.close(1)
    ledger.record_selection(1, "random", ids(1))
    ledger.record_answers(ids(), ids(), "oracle")
    ledger.withdraw(4, "ann")
    assert ledger.head == head


def test_a_commit_waits_for_the_disk(path, ledger):
    with ledger_file.connection(path) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_an_answer_is_committed_before_anything_is_put_beside_it(
    ledger, path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        ledger_module, "write_head", lambda _file, _head: seen.append(rows(path))
    )
    ledger.answer(4, 1, "ann")
    assert seen == [[(4, "label", 1, "ann")]]
