"""The server of the labeling page, on a real port."""

import socket
import stat

import httpx
import pytest
from asked import Asked, annotating
from typer.testing import CliRunner

from fairfal_flwr.annotate.kept import FILE, what_was_kept
from fairfal_flwr.annotate.serve import serve, serving
from fairfal_flwr.annotate.site import Site
from fairfal_flwr.command.cli import app
from fairfal_flwr.errors import UserError


@pytest.fixture
def site(tmp_path):
    Asked(tmp_path / "state").ask(2)
    return Site(tmp_path / "state")


def test_it_answers_once_the_block_begins_and_no_more_after_it(site):
    told: list[str] = []
    for _ in range(3):
        with serving(site, "127.0.0.1", 0, told.append), httpx.Client() as browser:
            assert browser.get(told[-1]).status_code == 200
            assert len(told) % 2 == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(told[-1])


def test_it_stays_at_its_port_unless_somebody_has_it(site):
    told: list[str] = []

    def port() -> int:
        with serving(site, "127.0.0.1", 0, told.append):
            return httpx.URL(told[-1]).port

    first = port()
    assert what_was_kept(site.root).port == first
    assert port() == first
    with socket.create_server(("127.0.0.1", first)):
        assert port() != first
    assert stat.S_IMODE((site.root / FILE).stat().st_mode) == 0o600


def test_a_port_that_somebody_has_is_said(site):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="Cannot listen on "),
    ):
        serve(site, "127.0.0.1", taken.getsockname()[1], print)


def test_an_address_that_others_reach_is_warned_about_and_needs_the_token(site):
    told: list[str] = []
    with serving(site, "0.0.0.0", 0, told.append):
        assert told[0].startswith("Warning: 0.0.0.0 is reached from other machines")
        assert told[1].startswith("http://127.0.0.1:")
        port = httpx.URL(told[1]).port
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 403


@pytest.mark.slow
def test_the_command_tells_the_next_link_and_ends_with_one_line(tmp_path):
    Asked(tmp_path / "state").ask(1)
    with annotating(tmp_path / "state", "--name", "labels.example") as running:
        link = running.link()
        assert link.startswith("https://labels.example/?token=")
        port = what_was_kept(tmp_path / "state").port
        came = httpx.get(
            f"http://127.0.0.1:{port}/{link.partition('.example/')[2]}",
            headers={"host": "labels.example"},
        )
        assert came.status_code == 200
        assert running.link() != link
        running.process.send_signal(2)
        last = running.line()
        assert running.process.wait(10) == 0
        assert last == "fairfal: no longer serving; every answer is in the ledger\n"


def test_the_command_says_in_one_line_what_is_damaged(tmp_path):
    asked = Asked(tmp_path / "state")
    asked.ask(1)
    asked.path.with_suffix(".sheet.json").write_text("{")
    ran = CliRunner().invoke(app, ["annotate", "--state-dir", str(tmp_path / "state")])
    assert ran.exit_code == 2
    assert ran.output.count("\n") == 1
    assert "sheet.json" in ran.output
