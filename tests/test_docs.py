"""The documentation does what it says: snippets run, commands and links exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fairfal_flwr.command.cli import app
from fairfal_flwr.command.run_config import merge_run_config
from fairfal_flwr.config import RunConfig, Scalar

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
METHOD_PAGE = ROOT / "docs" / "method.md"
SIGN, TO = "\N{SECTION SIGN}", "\N{EN DASH}"
NUMBER = r"\d+(?:\.\d+)?"
POINTER = re.compile(rf"method {SIGN}{NUMBER}(?:(?:{TO}| and {SIGN}){NUMBER})*")
POINTING = [
    file
    for folder in ("fairfal_flwr", "tests", "benchmarks", "docs")
    for suffix in ("*.py", "*.md")
    for file in sorted((ROOT / folder).rglob(suffix))
    if file != METHOD_PAGE
]
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


def headings() -> set[str]:
    lines = METHOD_PAGE.read_text().splitlines()
    found = (re.match(rf"##+ ({NUMBER})\.? ", line) for line in lines)
    return {match[1] for match in found if match}


def without_line_breaks(file: Path) -> str:
    return " ".join(file.read_text().split())


@pytest.mark.parametrize("file", POINTING, ids=lambda file: str(file.relative_to(ROOT)))
def test_pointers_to_the_method_have_one_form_and_lead_to_a_heading(file):
    text = without_line_breaks(file)
    pointers = POINTER.findall(text)
    assert {number for p in pointers for number in re.findall(NUMBER, p)} <= headings()
    assert not re.search(rf"{SIGN}|\bMETHOD\b", POINTER.sub("", text))


def test_the_method_is_pointed_at_and_its_own_pointers_lead_somewhere():
    assert any(POINTER.search(without_line_breaks(file)) for file in POINTING)
    own = re.findall(rf"{SIGN}({NUMBER})", METHOD_PAGE.read_text())
    assert own
    assert set(own) <= headings()


def test_the_method_names_keys_that_exist():
    named = re.findall(r"`([a-z]+\.[a-z-]+)(?: = [^`]*)?`", METHOD_PAGE.read_text())
    pages = {name for name in named if name.endswith(".md")}
    assert set(named) - pages <= RunConfig().to_flat().keys()


def defaults_in_the_method() -> list[tuple[str, str, str]]:
    """Return key, default and the paper's value of every row that has all three."""
    text = METHOD_PAGE.read_text()
    rows = [
        [re.findall(r"[^\s,`]+", cell) for cell in line.split("|")[2:5]]
        for line in text.splitlines()
        if re.match(r"\|[^|]*\| `[a-z.-]+`(, `[a-z.-]+`)* \|", line)
    ]
    inline = re.findall(r"`([a-z]+\.[a-z-]+)`(?: is \w)? = ([\d.]*\d)", text)
    return [
        *(values for row in rows for values in zip(*row, strict=True)),
        *((key, value, value) for key, value in inline),
    ]


def test_the_defaults_in_the_method_are_the_configs():
    preset = merge_run_config(ROOT, [str(ROOT / "configs/paper/cifar10-a0.1.toml")])
    default, paper = RunConfig().to_flat(), RunConfig.from_flat(preset).to_flat()

    def read(key: str, text: str) -> Scalar:
        return type(default[key])(text)

    stated = defaults_in_the_method()
    assert len(stated) > 20
    for key, value, published in stated:
        assert (read(key, value), read(key, published)) == (default[key], paper[key])
