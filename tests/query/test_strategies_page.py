"""docs/strategies.md says what the registry says."""

import re
from pathlib import Path

import pytest

from fairfal_flwr.query.registry import STRATEGIES

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"


def tables() -> dict[str, list[list[str]]]:
    """Return the rows of each table by the words of its first line."""
    found: dict[str, list[list[str]]] = {}
    header = None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = " ".join(cells)
            found[header] = []
        elif not set(line) <= set("|-"):
            found[header].append(cells)
    return found


ROWS = {
    row[0].strip("`"): row for row in tables()["name reference models cost options"]
}


def test_every_strategy_has_one_row():
    assert sorted(ROWS) == sorted(STRATEGIES)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_reference_and_cost(name):
    _, reference, _, cost, _ = ROWS[name]
    assert reference not in ("", "?")
    assert cost not in ("", "?")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_the_models_of_the_default_options(name):
    assert ROWS[name][2] == (", ".join(STRATEGIES[name].models) or "none")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_lists_every_option_with_its_default(name):
    listed = re.findall(r"`(\w+)=([^`]*)`", ROWS[name][4])
    options = STRATEGIES[name].options.values()
    assert listed == [(option.name, str(option.default)) for option in options]


def test_every_model_is_explained():
    explained = [row[0].strip("`") for row in tables()["name what it is"]]
    words = STRATEGIES["entropy"].options["model"].words
    assert explained == list(words)


def test_every_quirk_switch_is_explained():
    explained = {
        row[0].strip("`") for row in tables()["strategy `faithful` `corrected`"]
    }
    assert explained == {n for n, s in STRATEGIES.items() if "quirks" in s.options}
