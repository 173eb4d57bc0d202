"""A ledger that is not what was written is named in one line and left as it is."""

import hashlib
import re
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from sample_ids import ids

from fairfal_flwr.client import ledger as ledger_module
from fairfal_flwr.client import ledger_file
from fairfal_flwr.client.ledger import Head, Ledger
from fairfal_flwr.client.ledger_chain import DamageError, verify
from fairfal_flwr.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "campaign" / "client-0000.sqlite"


def fill(ledger):
    """Record one of each kind of row."""
    ledger.record_selection(
        1,
        "chase",
        ids(9, 4, 7),
        suggestions=ids(1, 2, 3),
        scores=np.array([0.1, 1 / 3, np.nan], dtype=np.float64),
        notes={"score": 0.5},
        memory={"dormant": (ids(1, 2), ids(3, 4))},
    )
    ledger.record_answers(ids(9), ids(2), "Jörg \N{GRINNING FACE}")
    ledger.answer(4, None, "ann")
    ledger.close(1)
    ledger.withdraw(4, "ann")
    return ledger


def change(path, statement):
    """Change the file behind the ledger's back."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def contents(path):
    return {
        file: file.read_bytes()
        for file in path.parent.rglob("*")
        if file.is_file() and not file.name.endswith(("-wal", "-shm"))
    }


def refused(path, *arguments):
    """Open the ledger; return the one line, after a look at what it left behind."""
    before = contents(path)
    with pytest.raises(UserError) as caught:
        Ledger(path, *(arguments or ("abc",)))
    assert contents(path) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_written_opens(path):
    head = fill(Ledger(path, "abc")).head
    assert head.entries == 6
    assert Ledger(path, "abc", head).head == head


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE answer SET label = 3 WHERE sample_id = 9", r"entry 3 \(answer\)"),
        ("UPDATE answer SET annotator = 'bob' WHERE number = 2", r"entry 4 \(answer\)"),
        ("UPDATE answer SET answered_at = '' WHERE number = 2", r"entry 4 \(answer\)"),
        ("UPDATE answer SET action = 'withdraw' WHERE number = 2", r"entry 4 "),
        ("UPDATE answer SET sample_id = 7 WHERE number = 1", r"entry 3 "),
        ("UPDATE request SET score = 0.2 WHERE sample_id = 4", r"entry 2 \(selection"),
        ("UPDATE request SET suggestion = 0 WHERE sample_id = 4", r"entry 2 "),
        ("UPDATE request SET rank = 7 WHERE sample_id = 4", r"entry 2 "),
        ("UPDATE request SET sample_id = 5 WHERE sample_id = 4", r"entry 2 "),
        ("UPDATE request SET cycle = 2 WHERE sample_id = 4", r"entry 2 "),
        ("UPDATE selection SET notes = '{}'", r"entry 2 "),
        ("UPDATE selection SET strategy = 'random'", r"entry 2 "),
        ("UPDATE selection SET remembered = '[]'", r"entry 2 "),
        ("UPDATE selection SET asked_at = ''", r"entry 2 "),
        ("UPDATE memory SET value = 5 WHERE sample_id = 1", r"entry 2 "),
        ("UPDATE memory SET name = 'other'", r"entry 2 "),
        ("UPDATE closing SET last_answer = 1", r"entry 5 \(closing\)"),
        ("UPDATE closing SET cycle = 2", r"entry 5 \(closing\)"),
        ("UPDATE shard SET fingerprint = 'xyz'", r"entry 1 \(shard\)"),
        ("DELETE FROM answer WHERE number = 3", r"entry 6 "),
        ("DELETE FROM closing", r"entry 5 "),
        ("DELETE FROM memory WHERE sample_id = 1", r"entry 2 "),
        ("DELETE FROM entry WHERE number = 3", r"entry 3 is missing"),
        ("UPDATE entry SET digest = '' WHERE number = 6", r"entry 6 "),
        ("UPDATE entry SET kind = 'shard' WHERE number = 6", r"entry 6 "),
        ("UPDATE entry SET kind = 'shards' WHERE number = 6", "entry 6 makes no sense"),
        ("UPDATE entry SET first = 'one' WHERE number = 6", "entry 6 makes no sense"),
        ("INSERT INTO closing VALUES (3, 1)", r"1 row\(s\) of closing are no entry's"),
        ("INSERT INTO request VALUES (5, 8, 0, 1, 1)", r"1 row\(s\) of request"),
        ("CREATE INDEX i ON answer (label)", "tables are not those"),
        ("ALTER TABLE answer RENAME COLUMN label TO class", "tables are not those"),
        ("DROP TABLE memory", "tables are not those"),
        ("PRAGMA user_version = 0", "tables are not those"),
        ("PRAGMA application_id = 7", "it is a database of another application"),
    ],
)
def test_every_change_is_found(path, statement, reason):
    fill(Ledger(path, "abc"))
    change(path, statement)
    line = refused(path)
    assert str(path) in line
    assert re.search(f"is damaged: .*{reason}", line)


def test_rows_that_change_places_are_found(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", ids(1, 2))
    ledger.answer(1, 0, "ann")
    ledger.answer(2, 0, "ann")
    change(path, "UPDATE entry SET first = 3 - first, last = 3 - last WHERE number > 2")
    assert "entry 3 (answer) is not what was recorded" in refused(path)


def test_an_entry_that_came_twice_is_found(path):
    """Two entries over the same rows would hide rows that no entry covers."""
    fill(Ledger(path, "abc"))
    with ledger_file.connection(path) as db:
        db.execute("UPDATE answer SET number = 9 WHERE number = 3")
        with pytest.raises(DamageError, match="entry 6"):
            verify(db)


def test_damage_that_no_row_shows_is_found_before_it_spreads(path):
    """SQLite would take pages for free that hold rows."""
    fill(Ledger(path, "abc"))
    data = bytearray(path.read_bytes())
    data[39] = 5  # how many pages are free
    path.write_bytes(data)
    assert re.search("is damaged: .*[Ff]reelist", refused(path))


@pytest.mark.parametrize("end", [b'"', b"`", b"\xa0"])
def test_a_schema_that_sqlite_quotes_is_still_one_line(path, end):
    Ledger(path, "abc")
    data, whole = path.read_bytes(), b"REFERENCES selection (cycle),\n    name"
    assert whole in data
    path.write_bytes(data.replace(whole, whole.replace(b" (", end + b"(")))
    assert "is damaged: " in refused(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (b"SQLite format 3\0", "it is no SQLite database"),
        (b"not a database" * 100, "it is no SQLite database"),
    ],
)
def test_what_is_no_ledger_is_left_alone(path, content, reason):
    path.parent.mkdir()
    path.write_bytes(content)
    line = refused(path)
    assert re.search(reason, line)
    assert "There is no good backup of it" in line
    assert f"`fairfal ledger restore {path} --backup FILE`" in line


def test_a_database_of_somebody_else_is_left_alone(path):
    path.parent.mkdir()
    change(path, "CREATE TABLE answer (number INTEGER)")
    assert "it is a database of another application" in refused(path)


def test_a_ledger_of_a_newer_version_is_refused(path):
    Ledger(path, "abc")
    change(path, "PRAGMA user_version = 2")
    line = refused(path)
    assert "has schema version 2, from a newer FairFAL; this one knows up to 1" in line


def test_an_older_ledger_is_brought_to_this_version(path, monkeypatch):
    head = fill(Ledger(path, "abc")).head
    more = ("CREATE TABLE more (x INTEGER)",)
    monkeypatch.setattr(ledger_file, "MIGRATIONS", (ledger_file.CREATION, more))
    ledger_file._schema_of.cache_clear()
    ledger = Ledger(path, "abc", head)
    assert as_rows(path, "PRAGMA user_version") == [(2,)]
    assert as_rows(path, "SELECT x FROM more") == []
    assert ledger.labeled(1)[0].tolist() == [9]
    Ledger(path, "abc")


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    fill(Ledger(path, "abc"))
    steps = ("CREATE TABLE more (x INTEGER)", "CREATE TABLE more (x INTEGER)")
    monkeypatch.setattr(ledger_file, "MIGRATIONS", (ledger_file.CREATION, steps))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        Ledger(path, "abc")
    assert as_rows(path, "PRAGMA user_version") == [(1,)]
    assert as_rows(path, "SELECT 1 FROM sqlite_master WHERE name = 'more'") == []


def as_rows(path, query):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_the_digest_is_a_plain_hash_over_the_rows(path):
    """Written out, so that no later version reads an old ledger as damaged."""
    Ledger(path, "abc")
    text = "('', 1, 'shard', 1, 1, [[(1, 'abc')]])"
    assert as_rows(path, "SELECT digest FROM entry") == [
        (hashlib.sha256(text.encode()).hexdigest(),)
    ]


# A ledger that went back in time, or away.


@pytest.fixture
def old_copy(path):
    """Put back what the ledger was, and return the head that the server knows."""
    ledger = fill(Ledger(path, "abc"))
    before = path.read_bytes()
    ledger.answer(7, 1, "ann")
    ledger.answer(7, 2, "ann")
    head = ledger.head
    path.write_bytes(before)
    return head


def test_the_server_finds_an_old_copy(path, old_copy):
    path.with_suffix(".head").unlink()
    line = refused(path, "abc", old_copy)
    assert "it has 6 entries, but the server knows 8" in line
    ledger = Ledger(path, "abc")
    with pytest.raises(UserError, match="it has 6 entries, but the server knows 8"):
        ledger.check_contains(old_copy)


def test_an_old_copy_is_found_without_the_server(path, old_copy):
    assert "it has 6 entries, but its own record knows 8" in refused(path)


def test_another_history_of_the_same_length_is_found(path, old_copy):
    path.with_suffix(".head").unlink()
    ledger = Ledger(path, "abc")
    ledger.answer(7, 1, "ann")
    ledger.answer(7, 3, "ann")
    ledger.answer(7, 1, "ann")
    assert "entry 8 is not the one that the server knows" in refused(
        path, "abc", old_copy
    )


def test_the_last_digest_stands_for_all_before_it(path, monkeypatch):
    monkeypatch.setattr(ledger_module, "now", lambda: "now")
    heads = []
    for name, first in (("a", 1), ("b", 2), ("c", 1)):
        ledger = Ledger(path.with_name(f"{name}.sqlite"), "abc")
        ledger.record_selection(1, "random", ids(7))
        ledger.answer(7, first, "ann")
        ledger.answer(7, 3, "ann")
        heads.append(ledger.head)
    assert heads[0] == heads[2] != heads[1]


def test_a_ledger_contains_all_its_heads(path):
    ledger = Ledger(path, "abc")
    heads = [Head(), ledger.head]
    ledger.record_selection(1, "random", ids(1))
    heads.append(ledger.head)
    ledger.answer(1, 1, "ann")
    heads.append(ledger.head)
    for head in heads:
        ledger.check_contains(head)
    with pytest.raises(UserError):
        ledger.check_contains(Head(2, heads[1].digest))
    with pytest.raises(UserError):
        ledger.check_contains(Head(10**30, heads[1].digest))


def test_a_log_beside_an_old_copy_is_left_alone(path, tmp_path):
    ledger = fill(Ledger(path, "abc"))
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    with ledger_file.connection(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM shard").fetchall()
        ledger.answer(7, 1, "ann")  # stays in the log while somebody reads
        for ending in ("", "-wal"):
            data = path.with_name(path.name + ending).read_bytes()
            copy.with_name(path.name + ending).write_bytes(data)
    log = copy.with_name(f"{path.name}-wal")
    before = log.read_bytes()
    assert before
    assert "it has 7 entries, but" in refused(copy, "abc", Head(8, "0" * 64))
    assert log.read_bytes() == before
    assert Ledger(copy, "abc").answered().tolist() == [7, 9]


def test_a_missing_ledger_is_not_made_anew(path):
    line = refused(path, "abc", Head(5, "0" * 64))
    assert "is missing; it had 5 entries. Nothing was created." in line
    assert not path.parent.exists()


def test_a_missing_ledger_is_known_from_its_own_record(path):
    fill(Ledger(path, "abc"))
    path.unlink()
    assert "is missing; it had 6 entries" in refused(path)


def test_a_damaged_record_is_no_obstacle(path, caplog):
    ledger = fill(Ledger(path, "abc"))
    record = path.with_suffix(".head")
    whole = record.read_bytes()
    for content in (b"", b"6", whole[:-3] + b"x\n", b"7" + whole[1:], b"\xff" * 40):
        record.write_bytes(content)
        caplog.clear()
        Ledger(path, "abc")
        assert "client-0000.head is damaged" in caplog.text
    ledger.answer(7, 1, "ann")
    assert record.read_text().split()[:2] == ["7", ledger.head.digest]


# A host that does not let it be written.


def test_a_lock_that_is_held_is_one_line_and_the_request_can_be_repeated(
    path, monkeypatch
):
    ledger = fill(Ledger(path, "abc"))
    monkeypatch.setattr(ledger_file, "PATIENCE", 0.01)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match=r"is locked: .*repeat the request"):
            ledger.answer(7, 1, "ann")
        assert ledger.answered().tolist() == [9]  # reading goes on
    ledger.answer(7, 1, "ann")
    assert ledger.answered().tolist() == [7, 9]


def test_a_full_disk_is_one_line_and_the_request_can_be_repeated(path, monkeypatch):
    ledger = fill(Ledger(path, "abc"))
    (size,) = as_rows(path, "PRAGMA page_count")[0]
    with monkeypatch.context() as full:
        pragmas = (*ledger_file.PRAGMAS, f"PRAGMA max_page_count = {size}")
        full.setattr(ledger_file, "PRAGMAS", pragmas)
        with pytest.raises(UserError, match=r"the disk is full; nothing was written"):
            ledger.record_selection(2, "random", np.arange(100, 2000))
    assert not Ledger(path, "abc").knows_cycle(2)
    ledger.record_selection(2, "random", np.arange(100, 2000))
    assert len(ledger.selection(2)) == 1900


def test_a_ledger_that_cannot_be_written_is_one_line(path, monkeypatch):
    ledger = fill(Ledger(path, "abc"))
    with monkeypatch.context() as locked:
        pragmas = (*ledger_file.PRAGMAS, "PRAGMA query_only = ON")
        locked.setattr(ledger_file, "PRAGMAS", pragmas)
        with pytest.raises(UserError, match=r"Cannot use .*readonly.*`state-dir`"):
            ledger.answer(7, 1, "ann")
    ledger.answer(7, 1, "ann")


def test_damage_that_comes_up_later_is_one_line(path):
    ledger = fill(Ledger(path, "abc"))
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match="is damaged: file is not a database"):
        ledger.answered()
