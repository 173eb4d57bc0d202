"""The documentation does what it says: snippets run, commands and links exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fairfal_flwr.command.cli import app
from fairfal_flwr.command.launch import merge_run_config
from fairfal_flwr.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (kind, text) in enumerate(BLOCK.findall(page.read_text()))
        if kind == language
    ]


def commands():
    lines = [
        line
        for block in blocks("sh")
        for line in block.values[0].replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]
    return sorted({line.partition("  #")[0].strip() for line in lines})


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippets_run(code):
    exec(compile(code, "snippet", "exec"), {})


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_make_targets_exist(command):
    target = shlex.split(command)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "command", [c for c in commands() if re.match(r"(\S*/)?(fairfal|flwr) run", c)]
)
def test_run_commands_have_a_valid_config(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "-c"]
    config = RunConfig.from_flat(merge_run_config(ROOT, overrides))
    if "flwr" in words[0] and "--federation-config" in words:
        federation = words[words.index("--federation-config") + 1]
        assert f"num-supernodes={config.num_clients}" in federation


@pytest.mark.parametrize(
    "command", [c for c in commands() if re.match(r"(\S*/)?fairfal [a-z]", c)]
)
def test_fairfal_commands_exist(command):
    assert shlex.split(command)[1] in get_command(app).commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [t for t in local if not (page.parent / t).exists()] == []
