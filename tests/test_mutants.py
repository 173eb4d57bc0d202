"""Mutation testing itself: it kills what a test notices and names what none does."""

import subprocess
import sys
from pathlib import Path

import pytest
from mutants import EXPLAINED, ROOT, explanations, mutants_of

ONE_SIDE_IS_TESTED = {
    "small.py": """
from functools import cache

class Scale:
    @property
    def top(self):
        return 3 - 1

@cache
def clipped(value):
    if value > Scale().top:
        return Scale().top
    return value

def alone():
    return 5
""",
    "test_small.py": """
import small

def test_what_is_large_is_clipped():
    assert small.clipped(7) == 2

def test_what_is_small_is_kept():
    assert small.clipped(1) == 1
""",
}

CHANGED = [
    ("return a < b", "return a <= b"),
    ("return a not in b", "return a in b"),
    ("return 0 < a < b", "return 0 < a <= b"),
    ("return a + b", "return a - b"),
    ("return a // b", "return a / b"),
    ("return a and b", "return a or b"),
    ("return not a", "return a"),
    ("return -a", "return a"),
    ("return max(a, b)", "return min(a, b)"),
    ("return a.argmin()", "return a.argmax()"),
    ("return 0", "return 1"),
    ("return 0.5", "return 1.5"),
    ("return False", "return True"),
    ("return f(a, dim=b)", "return f(a)"),
    ("return a", "return None"),
    ("a.sort()", "pass"),
    ("a += b", "pass"),
    ("if a:\n        b = a", "if True:"),
    ("if a:\n        b = a", "if False:"),
    ("return b if a else c", "return b if False else c"),
]


def mutated(function: str) -> list[str]:
    return [mutant.after for mutant in mutants_of(function, "x.py")]


@pytest.mark.parametrize(("statement", "after"), CHANGED)
def test_a_statement_is_changed(statement, after):
    assert after in mutated(f"def f(a, b, c):\n    {statement}\n")


@pytest.mark.parametrize(
    "statement",
    ["'talk'", "log.info('%d', 1)", "assert 1", "raise A(1)", "a: list[1]", "f'{1}'"],
)
def test_what_only_talks_is_left_alone(statement):
    after = mutated(f"def f(a):\n    {statement}\n")
    assert after in ([], ["pass"])


def test_a_default_and_a_signature_are_told_apart():
    assert mutated("def f(a: int = 1, *, b: tuple[1] = True) -> 2: ...") == [
        "def f(a: int=1, *, b: tuple[1]=False) -> 2:",
        "def f(a: int=2, *, b: tuple[1]=True) -> 2:",
    ]


def test_equal_changes_in_one_function_have_names_of_their_own():
    names = [m.name for m in mutants_of("def f():\n    g(1)\n    g(1)\n", "x.py")]
    assert len(set(names)) == len(names) == 4


def test_the_tool_kills_what_is_tested_and_reports_what_is_not(tmp_path):
    for name, code in ONE_SIDE_IS_TESTED.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    reason = tmp_path / "reasons.toml"
    reason.write_text(
        '[[because]]\nwhy = "2 is 2"\n'
        "mutants = ['small.py clipped | if value > Scale().top:"
        " | if value >= Scale().top:']\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "tests" / "mutants.py", "--root", tmp_path),
            *("--only", "small.py", "--jobs", "1", "--explained", reason),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    survivors = [
        line for line in done.stdout.splitlines() if line.startswith(("- ", "+ "))
    ]
    assert survivors == ["- return 5", "+ return None", "- return 5", "+ return 6"]
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "together 8 0 2 1 0 0" in rows


def test_every_explained_survivor_is_still_a_mutant():
    names = set(explanations(EXPLAINED))
    files = {name.split()[0] for name in names}
    known = {
        mutant.name
        for file in files
        for mutant in mutants_of(Path(ROOT / file).read_text(encoding="utf-8"), file)
    }
    assert names <= known
