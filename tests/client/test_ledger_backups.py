"""Backups: made in time, few, good; and what takes the place of a ledger."""

import os
import shutil
from contextlib import suppress
from time import time

import numpy as np
import pytest
from sample_ids import ids
from typer.testing import CliRunner

from fairfal_flwr.client import ledger as ledger_module
from fairfal_flwr.client import ledger_backups
from fairfal_flwr.client.ledger import Head, Ledger
from fairfal_flwr.client.ledger_backups import newest_good, restore
from fairfal_flwr.client.ledger_file import inspect, place
from fairfal_flwr.command.cli import app
from fairfal_flwr.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a campaign" / "client-0000.sqlite"


@pytest.fixture
def ledger(path):
    ledger = Ledger(path, "abc")
    ledger.record_selection(1, "random", np.arange(50))
    return ledger


def backups(path):
    """Return the names of the backups, the newest first."""
    return [copy.name for copy in ledger_backups._copies(path)]


def make_older(path, seconds):
    """Let all backups have been written some seconds ago."""
    for number, copy in enumerate(ledger_backups._copies(path)):
        when = time() - seconds - number
        os.utime(copy, (when, when))


def test_a_batch_and_a_closing_are_backed_up_at_once(ledger, path):
    assert backups(path) == ["client-0000-2.sqlite"]
    ledger.record_answers(ids(1, 2), ids(0, 1), "oracle")
    assert backups(path)[0] == "client-0000-3.sqlite"
    ledger.close(1)
    assert backups(path) == [f"client-0000-{n}.sqlite" for n in (4, 3, 2)]


def test_a_persons_answers_are_backed_up_once_a_minute(ledger, path):
    for sample in range(5):
        ledger.answer(sample, 0, "ann")
    assert backups(path) == ["client-0000-2.sqlite"]
    make_older(path, 59)
    ledger.answer(5, 0, "ann")
    assert backups(path) == ["client-0000-2.sqlite"]
    make_older(path, 61)
    ledger.answer(6, 0, "ann")
    assert backups(path) == ["client-0000-9.sqlite", "client-0000-2.sqlite"]


def test_a_clock_that_went_back_stops_no_backup(ledger, path):
    make_older(path, -1000)
    ledger.answer(6, 0, "ann")
    assert "client-0000-3.sqlite" in backups(path)


def test_three_backups_of_each_client_are_kept(ledger, path):
    other = Ledger(path.with_name("client-0001.sqlite"), "abc")
    other.close(1)
    for sample in range(8):
        ledger.record_answers(ids(sample), ids(0), "oracle")
    assert backups(path) == [f"client-0000-{n}.sqlite" for n in (10, 9, 8)]
    assert backups(other.path) == ["client-0001-2.sqlite"]
    assert len(list((path.parent / "backups").iterdir())) == 4


def test_a_backup_is_the_whole_ledger(ledger, path):
    ledger.record_answers(ids(1, 2), ids(0, 1), "oracle")
    backup = newest_good(path)
    assert backup.summary.head == ledger.head
    assert backup.summary.num_answers == 2


def test_what_a_killed_process_left_is_swept_after_an_hour(ledger, path):
    folder = path.parent / "backups"
    old = [folder / ".client-0000-x", path.parent / ".client-0000-7.head"]
    new = [folder / ".client-0000-y", path.parent / ".client-0001-7.head"]
    (copy := old[0] / path.name).parent.mkdir()
    for file in [copy, *old, *new]:
        file.touch()
        when = time() - (3700 if file in (*old, new[1]) else 3500)
        os.utime(file, (when, when))
    ledger.close(1)
    assert [file.exists() for file in old + new] == [False, False, True, True]


def test_a_ledger_that_was_being_made_is_swept_as_well(path):
    path.parent.mkdir()
    with suppress(FileNotFoundError), place(path) as temporary:
        temporary.touch()
        os.utime(temporary.parent, (0, 0))
        ledger_backups._sweep(path.parent, path)
        left = list(path.parent.iterdir())
    assert left == []


def test_what_another_process_takes_away_meanwhile_is_no_failure(ledger, path, caplog):
    """A name that leads nowhere: it is listed, and then it is not there."""
    (path.parent / ".client-0000-7.head").symlink_to("gone")
    ledger.close(1)
    assert not caplog.records


def test_a_backup_that_fails_loses_no_answer(ledger, monkeypatch, caplog):
    def fail(_path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module, "back_up", fail)
    ledger.record_answers(ids(1), ids(0), "oracle")
    assert ledger.answered().tolist() == [1]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "its backup failed: [Errno 28] No space left" in record.getMessage()


def test_a_damaged_ledger_takes_the_place_of_no_good_backup(ledger, path, caplog):
    ledger.record_answers(ids(1), ids(0), "oracle")
    before = backups(path)
    with ledger_backups.connection(path) as db, db:
        db.execute("UPDATE answer SET label = 9")
    ledger.close(1)
    assert "entry 3 (answer) is not what was recorded; the older ones stay" in (
        caplog.text
    )
    assert backups(path) == before
    assert newest_good(path).summary.num_answers == 1


# What is offered, and its restoration.


@pytest.fixture
def damaged(ledger, path):
    """Damage a ledger that has 5 entries; its newest good backup has 3, the last 4."""
    ledger.record_answers(ids(1, 2), ids(0, 1), "oracle")
    ledger.close(1)
    (path.parent / "backups" / "client-0000-4.sqlite").write_bytes(b"not good either")
    ledger.answer(3, 1, "ann")
    make_older(path, 200)
    path.write_bytes(b"damage")
    return path


def line_of(path, *arguments):
    with pytest.raises(UserError) as caught:
        Ledger(path, *(arguments or ("abc",)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_newest_good_backup_is_offered_with_age_and_loss(damaged):
    good = damaged.parent / "backups" / "client-0000-3.sqlite"
    assert line_of(damaged).endswith(
        "is damaged: it is no SQLite database. It was left as it is. The newest good "
        f"backup, {good}, is 3 minutes old and lacks the last 2 of 5 entries; "
        f"`fairfal ledger restore '{damaged}'` puts it in its place."
    )
    assert "lacks the last 7 of 10 entries; `fairfal ledger restore" in (
        line := line_of(damaged, "abc", Head(10, "0" * 64))
    )
    assert f"'{damaged}' --known 10` puts" in line
    damaged.with_suffix(".head").unlink()
    assert "is 3 minutes old and lacks nobody knows what" in line_of(damaged)
    assert "lacks nothing; " in line_of(damaged, "abc", Head(3, "0" * 64))


def test_a_backup_takes_the_place_of_a_damaged_ledger(damaged):
    done = restore(damaged)
    assert done.source.path.name == "client-0000-3.sqlite"
    assert done.num_lost == 2
    assert done.aside.read_bytes() == b"damage"
    ledger = Ledger(damaged, "abc")
    assert ledger.answered().tolist() == [1, 2]
    assert ledger.head.entries == 6  # 4 and 5 are given up
    ledger.answer(3, 7, "ann")
    assert Ledger(damaged, "abc", ledger.head).answered().tolist() == [1, 2, 3]


def test_what_was_given_up_is_forgiven_and_nothing_else(damaged):
    lost = Head(5, "0" * 64)
    restore(damaged)
    before = damaged.read_bytes()
    ledger = Ledger(damaged, "abc", lost)
    ledger.check_contains(Head(4, "0" * 64))
    for head in (Head(3, "0" * 64), Head(6, "0" * 64), Head(7, "0" * 64)):
        with pytest.raises(UserError, match="is an old copy, or another"):
            ledger.check_contains(head)
    ledger.answer(3, 7, "ann")
    damaged.write_bytes(before)  # back in time once more
    assert "it has 6 entries, but its own record knows 7" in line_of(damaged)


def test_a_missing_ledger_is_restored(ledger, path):
    ledger.close(1)
    path.unlink()
    assert "`fairfal ledger restore" in line_of(path)
    assert restore(path) == (newest_good(path), None, 0)
    assert Ledger(path, "abc").head == newest_good(path).summary.head


def test_an_old_copy_without_a_better_backup_goes_on_as_it_is(ledger, path):
    ledger.answer(1, 1, "ann")
    shutil.rmtree(path.parent / "backups")
    path.with_suffix(".head").unlink()
    server = Head(9, "0" * 64)
    line = line_of(path, "abc", server)
    assert "No backup has more; it lacks the last 6 of 9 entries; " in line
    assert "--known 9` goes on without them." in line
    done = restore(path, known=9)
    assert (done.source.path, done.aside, done.num_lost) == (path, None, 6)
    assert Ledger(path, "abc", server).head.entries == 10


def test_the_log_of_a_damaged_ledger_is_put_aside_with_it(damaged):
    log = damaged.with_name(f"{damaged.name}-wal")
    log.write_bytes(b"frames")
    damaged.with_name(f"{damaged.name}.aside-1").touch()
    aside = restore(damaged).aside
    assert aside.name == "client-0000.sqlite.aside-2"
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"frames"
    assert not log.exists()


def test_ones_own_backup_is_restored(damaged, tmp_path):
    mine = tmp_path / "mine.sqlite"
    shutil.copy(damaged.parent / "backups" / "client-0000-2.sqlite", mine)
    assert restore(damaged, mine).num_lost == 3
    assert Ledger(damaged, "abc").answered().tolist() == []
    assert inspect(mine, "immutable=1").head.entries == 2


def test_there_must_be_something_to_restore(ledger, path, tmp_path):
    with pytest.raises(UserError, match="good and has all 2 entries that are known"):
        restore(path)
    with pytest.raises(UserError, match=r"Cannot restore .*nowhere.*No such file"):
        restore(path, tmp_path / "nowhere")
    nowhere = tmp_path / "x" / "client.sqlite"
    with pytest.raises(UserError, match=r"no good backup of .*name one by `--backup"):
        restore(nowhere)
    assert not nowhere.parent.exists()


# The commands.


def fairfal(*arguments):
    return CliRunner().invoke(app, ["ledger", *map(str, arguments)])


def test_check_tells_a_good_ledger(ledger, path):
    result = fairfal("check", path)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first == f"{path}: good; 2 entries, 0 answers; head {ledger.head.digest}"
    assert second.startswith(f"newest good backup: {newest_good(path).path}, ")


def test_check_and_restore_mend_a_damaged_ledger(damaged):
    result = fairfal("check", damaged)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"fairfal: The label ledger {damaged} is damaged")
    assert len(result.stderr.splitlines()) == 1
    result = fairfal("restore", damaged, "--known", 6)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{damaged}: 3 entries, 2 answers, from "
        f"{damaged.parent / 'backups' / 'client-0000-3.sqlite'}",
        "given up: the last 3 entries that were known",
        f"what stood there: {damaged}.aside-1",
    ]
    assert fairfal("check", damaged).exit_code == 0
    result = fairfal("restore", damaged)
    assert result.exit_code == 2
    assert "Nothing to restore" in result.stderr
