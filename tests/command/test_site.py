"""`fairfal site` and `fairfal clean`: what is asked of a site, and what may go."""

import os
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.command import cli

DAY = 86_400


def fairfal(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def make_ledger(root, campaign, client, *, cycles=1, labeled=0):
    folder = root / campaign
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / f"client-{client:04d}.sqlite", "content 9 names")
    for cycle in range(1, cycles + 1):
        ids = np.arange(3) + 3 * (cycle - 1)
        ledger.record_selection(cycle, "random", ids)
    asked = ledger.requested()
    ledger.record_answers(asked[:labeled], np.zeros(labeled, np.int64), "oracle")
    return ledger


def age(folder, days):
    then = time.time() - days * DAY
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def test_a_site_sees_what_is_asked_of_it(tmp_path):
    make_ledger(tmp_path, "first-run", 0, cycles=2, labeled=4)
    make_ledger(tmp_path, "second-run", 12)
    age(tmp_path / "first-run", 3)
    result = fairfal("site", "--state-dir", tmp_path)
    assert result.exit_code == 0
    head, *rows = [line.split() for line in result.stdout.splitlines()]
    assert head == ["campaign", "client", "cycles", "asked", "labeled", "open", "age"]
    assert [row[:6] for row in rows] == [
        ["second-run", "12", "1", "3", "0", "3"],
        ["first-run", "0", "2", "6", "4", "2"],
    ]
    assert rows[1][6:] == ["3", "d"]


def test_a_damaged_ledger_is_named_and_the_others_are_shown(tmp_path):
    make_ledger(tmp_path, "good", 0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/client-0000.sqlite").write_bytes(b"no ledger" * 99)
    result = fairfal("site", "--state-dir", tmp_path)
    assert result.exit_code == 1
    assert "good" in result.stdout
    assert "bad" not in result.stdout
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "bad/client-0000.sqlite") in result.stderr


def test_without_a_ledger_the_folder_is_named(tmp_path):
    result = fairfal("site", "--state-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"fairfal: There is no ledger below {tmp_path}; check --state-dir.\n"
    )


@pytest.fixture
def campaigns(tmp_path):
    """Return a state folder with old, labeled, new and foreign folders."""
    for name in ("old", "labeled", "new"):
        make_ledger(tmp_path, name, 0)
    (tmp_path / "labeled/client-0000.sheet.json").write_text("{}")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").touch()
    for name in ("old", "labeled", "photos"):
        age(tmp_path / name, 40)
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_old_state_goes_and_what_people_labeled_stays(campaigns):
    result = fairfal("clean", "--state-dir", campaigns, "--yes")
    assert result.exit_code == 0
    assert left(campaigns) == ["labeled", "new", "photos"]
    assert "40 days old, with answers of people  (stays: " in result.stdout
    assert result.stdout.endswith(f"removed: {campaigns / 'old'}\n")


def test_what_people_labeled_goes_if_that_is_said(campaigns):
    fairfal("clean", "--state-dir", campaigns, "--yes", "--with-answers")
    assert left(campaigns) == ["new", "photos"]


def test_nothing_goes_without_a_yes(campaigns):
    before = left(campaigns)
    result = CliRunner().invoke(
        cli.app, ["clean", "--state-dir", str(campaigns)], input="n\n"
    )
    assert result.exit_code == 0
    assert "nothing was removed" in result.stdout
    assert left(campaigns) == before
    result = fairfal("clean", "--state-dir", campaigns, "--older-than", 50)
    assert result.stdout == "nothing to remove\n"
    assert left(campaigns) == before
