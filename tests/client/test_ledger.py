"""The ledger loses nothing, asks nothing twice, and belongs to one shard."""

import sqlite3

import numpy as np
import pytest
from sample_ids import ids

from fairfal_flwr.client import ledger_file
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "campaign" / "client-0000.sqlite"


def test_requests_become_labels(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(9, 4, 7), suggestions=ids(0, 1, 1))
    assert ledger.unanswered().tolist() == [9, 4, 7]
    assert ledger.requested().tolist() == [4, 7, 9]
    ledger.record_answers(ids(9, 4), ids(2, 3), "oracle")
    assert ledger.unanswered().tolist() == [7]
    sample_ids, labels = ledger.labeled(1)
    assert (sample_ids.tolist(), labels.tolist()) == ([4, 9], [3, 2])


def test_a_cycle_keeps_its_first_selection(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(9, 4), notes={"score": 0.5})
    ledger.record_selection(1, "fairfal", ids(1, 2), notes={"score": 0.9})
    assert ledger.selection(1).tolist() == [9, 4]
    assert ledger.notes(1) == {"score": 0.5}
    assert ledger.knows_cycle(1)
    assert not ledger.knows_cycle(2)


def test_everything_survives_reopening(path):
    Ledger(path, "abc").record_selection(1, "random", ids(3, 1))
    Ledger(path, "abc").record_answers(ids(3), ids(8), "oracle")
    reopened = Ledger(path, "abc")
    assert reopened.selection(1).tolist() == [3, 1]
    assert reopened.unanswered().tolist() == [1]
    assert reopened.labeled(1)[1].tolist() == [8]


def test_an_empty_selection_is_a_known_cycle(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(4, "random", ids())
    assert ledger.knows_cycle(4)
    assert ledger.selection(4).tolist() == []
    assert [array.tolist() for array in ledger.labeled(4)] == [[], []]


def test_a_sample_is_never_asked_for_twice_and_a_failed_request_leaves_no_trace(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5))
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_selection(2, "random", ids(6, 5))
    assert not ledger.knows_cycle(2)
    assert ledger.requested().tolist() == [5]


def test_answers_are_stored_all_or_none(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5, 6))

    class Unreadable:
        def tolist(self):
            return [1, object()]

    with pytest.raises(sqlite3.Error):
        ledger.record_answers(ids(5, 6), Unreadable(), "oracle")
    assert ledger.unanswered().tolist() == [5, 6]


def test_who_answered_and_when_is_kept(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5))
    ledger.record_answers(ids(5), ids(2), "Dr. O'Neil")
    with sqlite3.connect(path) as db:
        row = db.execute("SELECT annotator, answered_at FROM answer").fetchone()
    assert row[0] == "Dr. O'Neil"
    assert row[1].endswith("+00:00")


def test_other_images_are_refused(path):
    Ledger(path, "abc")
    with pytest.raises(UserError, match="fingerprint abc, found xyz"):
        Ledger(path, "xyz")


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="set `state-dir` to a folder"):
        Ledger(blocker / "client.sqlite", "abc")


def test_a_damaged_file_is_one_clear_line(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"ledger .*sqlite is damaged: it is no SQLite"):
        Ledger(path, "abc")


def as_of(ledger, cycle):
    return dict(zip(*(array.tolist() for array in ledger.labeled(cycle)), strict=True))


def test_what_comes_after_a_cycle_was_closed_counts_from_the_next(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5, 6, 7))
    ledger.record_answers(ids(5), ids(0), "ann")
    assert as_of(ledger, 1) == {5: 0}
    ledger.record_answers(ids(6), ids(1), "ann")
    ledger.close(1)
    ledger.record_answers(ids(7), ids(2), "ann")
    assert as_of(ledger, 1) == {5: 0, 6: 1}
    assert as_of(ledger, 2) == {5: 0, 6: 1, 7: 2}
    ledger.close(2)
    ledger.close(1)  # a request that is repeated changes nothing
    assert as_of(Ledger(path, "abc"), 1) == {5: 0, 6: 1}


def test_a_later_answer_counts_where_it_is_seen_and_the_first_is_kept(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5))
    ledger.record_answers(ids(5), ids(0), "ann")
    ledger.close(1)
    ledger.record_answers(ids(5), ids(3), "bob")
    assert as_of(ledger, 1) == {5: 0}
    assert as_of(ledger, 2) == {5: 3}


def test_a_cycle_without_answers_is_closed_empty(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5))
    ledger.close(1)
    ledger.record_answers(ids(5), ids(0), "ann")
    assert as_of(ledger, 1) == {}
    assert as_of(ledger, 2) == {5: 0}


def test_a_cycle_that_was_never_closed_ends_with_a_later_one(path):
    """The client took no part in the training of cycle 1."""
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5, 6))
    ledger.record_answers(ids(5), ids(0), "ann")
    ledger.close(2)
    ledger.record_answers(ids(6), ids(0), "ann")
    assert as_of(ledger, 1) == as_of(ledger, 2) == {5: 0}
    ledger.close(1)
    assert as_of(ledger, 1) == {5: 0}


def test_what_was_asked_for_up_to_a_cycle(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(5))
    ledger.record_selection(3, "random", ids(2))
    assert [ledger.requested(c).tolist() for c in (0, 1, 2, 3)] == [
        [],
        [5],
        [5],
        [2, 5],
    ]
    assert ledger.requested().tolist() == [2, 5]


def remembered(ledger, cycle, name="dormant"):
    return [array.tolist() for array in ledger.memory(name, cycle)]


def test_a_memory_is_replaced_with_a_selection_or_stays(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(
        1, "chase", ids(5), memory={"dormant": (ids(2, 9), ids(1, 3))}
    )
    ledger.record_selection(1, "chase", ids(6), memory={"dormant": (ids(7), ids(1))})
    ledger.record_selection(2, "random", ids(6))
    back = Ledger(path, "abc")
    assert remembered(back, 2) == [[2, 9], [1, 3]]
    assert remembered(back, 2, "other") == [[], []]
    ledger.record_selection(3, "chase", ids(7), memory={"dormant": (ids(), ids())})
    assert remembered(ledger, 3) == [[], []]
    assert remembered(ledger, 2) == [[2, 9], [1, 3]]  # as of an earlier cycle


def test_a_failed_request_changes_no_memory(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "chase", ids(5), memory={"dormant": (ids(9), ids(1))})
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_selection(
            2, "chase", ids(5), memory={"dormant": (ids(1), ids(1))}
        )
    assert remembered(ledger, 2) == [[9], [1]]


def test_why_a_sample_was_chosen_is_kept(path):
    ledger = Ledger(path, "abc")
    scores = np.array([0.5, 0.25], dtype=np.float32)
    ledger.record_selection(1, "entropy", ids(5, 3), scores=scores)
    ledger.record_selection(2, "random", ids(4))
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT sample_id, score FROM request ORDER BY cycle, rank")
        assert rows.fetchall() == [(5, 0.5), (3, 0.25), (4, None)]


def test_of_two_that_make_a_ledger_at_the_same_moment_the_first_stays(path):
    """Both have seen that there is none."""
    ledger_file.create(path, "abc")
    before = path.read_bytes()
    ledger_file.create(path, "xyz")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
