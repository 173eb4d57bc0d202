"""Strategies in one folder, found by being there; the parts they are made of beside it.

Parts know no strategy. A strategy knows parts, and another one only if it is composed
of it.
"""

import ast
from pathlib import Path

import pytest

import fairfal_flwr.query
from fairfal_flwr.query.registry import STRATEGIES

ROOM = Path(fairfal_flwr.query.__file__).parent
NAME = "fairfal_flwr.query.strategies"
COMPOSED = {"finetuning"}


def stems(folder: Path) -> list[str]:
    return sorted({file.stem for file in folder.glob("*.py")} - {"__init__"})


def strategies_imported(code: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if f"{name}.".startswith(f"{NAME}.")}


@pytest.mark.parametrize("file", stems(ROOM / "strategies"))
def test_a_file_in_the_folder_registers_a_strategy(file):
    homes = {strategy.function.__module__ for strategy in STRATEGIES.values()}
    assert f"{NAME}.{file}" in homes


@pytest.mark.parametrize("part", stems(ROOM))
def test_a_part_knows_no_strategy(part):
    code = (ROOM / f"{part}.py").read_text(encoding="utf-8")
    assert not strategies_imported(code)


@pytest.mark.parametrize("file", stems(ROOM / "strategies"))
def test_only_a_composed_strategy_knows_another(file):
    code = (ROOM / "strategies" / f"{file}.py").read_text(encoding="utf-8")
    assert bool(strategies_imported(code)) == (file in COMPOSED)


@pytest.mark.parametrize(
    "code",
    [
        "from fairfal_flwr.query import strategies",
        "from fairfal_flwr.query.strategies import egl",
        "from fairfal_flwr.query.strategies.egl import egl",
        "def f():\n    import fairfal_flwr.query.strategies.egl",
    ],
)
def test_the_checker_sees_an_import_of_a_strategy(code):
    assert strategies_imported(code)
    assert not strategies_imported(code.replace("strategies", "selection"))
