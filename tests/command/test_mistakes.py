"""docs/errors.md: every mistake on it is made, and answered as it says."""

import re
import sys
from pathlib import Path

import pytest
from mistakes import ROOT, answer, make_home, start_nothing

PAGE = ROOT / "docs/errors.md"
STATUS = 2
LEAST = 75


def mistakes(text: str) -> list[tuple[str, str]]:
    """Return the commands on the page, and what each is answered."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines[::2])
    return [
        (line[2:], said) for line, said in zip(lines[::2], lines[1::2], strict=True)
    ]


MISTAKES = mistakes(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("home") / "app"
    folder.mkdir()
    make_home(folder)
    return folder


@pytest.mark.parametrize(("command", "said"), MISTAKES, ids=[c for c, _ in MISTAKES])
def test_a_mistake_is_answered_with_one_line_and_nothing_is_started(
    home, monkeypatch, command, said
):
    start_nothing(monkeypatch)
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.path", list(sys.path))  # which the command extends
    monkeypatch.setenv("FAIRFAL_HOME", str(home / "data"))
    before = files_in(home)
    found, status = answer(command, home)
    assert re.fullmatch(re.escape(f"{said}\n").replace("…", ".+"), found), found
    assert status == STATUS
    assert files_in(home) == before


def files_in(folder):
    """Return all below a folder but the bytecode that Python keeps of a module."""
    return [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts]


def test_the_page_shows_many():
    assert len({command for command, _ in MISTAKES}) >= LEAST
