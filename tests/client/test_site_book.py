"""What a site counts over all runs, and the noise that repeats itself."""

import multiprocessing
import sqlite3
import stat

import numpy as np
import pytest

from fairfal_flwr.client.site_book import SiteBook
from fairfal_flwr.errors import RefusalError, UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "site.sqlite"


def noise(path, content, *, client=0, most=None):
    return SiteBook(path, client).release(content, most).normal(size=5).tolist()


def test_the_same_content_has_the_same_noise_and_any_other_has_its_own(path):
    drawn = [noise(path, b"a"), noise(path, b"b"), noise(path, b"a", client=1)]
    assert [noise(path, b"a"), noise(path, b"b"), noise(path, b"a", client=1)] == drawn
    assert len({tuple(values) for values in drawn}) == 3


def test_the_noise_follows_from_a_secret_of_the_site(path, tmp_path):
    assert noise(path, b"a") != noise(tmp_path / "other.sqlite", b"a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_noise_is_gaussian(path):
    drawn = SiteBook(path, 0).release(b"a", None).normal(0, 3, 200_000)
    assert drawn.mean() == pytest.approx(0, abs=0.05)
    assert drawn.std() == pytest.approx(3, rel=0.01)


def test_releases_are_limited_in_all_and_known_ones_repeat(path):
    known = [noise(path, bytes([number]), most=3) for number in range(3)]
    for _ in range(2):
        with pytest.raises(RefusalError, match="`noisy-releases`"):
            noise(path, b"new", most=3)
    assert [noise(path, bytes([number]), most=1) for number in range(3)] == known
    assert noise(path, b"new", client=1, most=3)
    assert noise(path, b"new", most=4)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "home").write_text("")
    for place in (tmp_path / "home" / "site.sqlite", tmp_path / "home"):
        place_is_file = place.is_file()
        if place_is_file:
            place.write_bytes(b"no database, but long enough to be taken for one" * 9)
        with pytest.raises(UserError, match="set `FAIRFAL_HOME`") as error:
            noise(place, b"a")
        assert "\n" not in str(error.value)


def _release(path, number, results):
    results.put(noise(path, bytes([number])))


def test_processes_that_meet_a_new_file_agree_on_the_secret(path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    started = [
        context.Process(target=_release, args=(path, 0, results)) for _ in range(4)
    ]
    for process in started:
        process.start()
    drawn = [results.get(timeout=60) for _ in started]
    for process in started:
        process.join()
    assert drawn == [drawn[0]] * 4
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM secret").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM release").fetchone() == (1,)


def test_four_hundred_repetitions_say_no_more_than_one(path):
    """The mean of 400 fresh draws would be 20 times closer to the truth."""
    update = np.zeros(1000)
    replies = [
        update + SiteBook(path, 0).release(b"request", 1).normal(size=1000)
        for _ in range(400)
    ]
    assert np.linalg.norm(np.mean(replies, axis=0)) == pytest.approx(
        np.linalg.norm(replies[0])
    )
