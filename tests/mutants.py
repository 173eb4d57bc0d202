"""Mutation testing: change one thing in the code and see whether a fast test notices.

``make mutants`` runs it. One pytest session collects the fast tests and never runs one
itself: everything happens in forks of it, so that PyTorch is imported once and each
fork starts clean. First each test is run alone, to see which lines it runs and how
long it takes; that is kept in `CACHE`. Then each mutant, the syntax tree with one node
replaced, is compiled in a fork, where its code takes the place of the live function's
(so every reference sees it, decorated or not), and the tests that run its lines are
run, fastest first, until one fails.

What remains is explained in `survivors.toml`, by the function and the text of the
statement, or it is a hole in the tests. Code that runs at import, other than the
defaults of arguments, is not mutated.
"""

import argparse
import ast
import contextlib
import copy
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple, TypeVar

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
ROOMS = [f"fairfal_flwr/{room}" for room in ("client", "server", "query", "report")]
CACHE = Path(".mutants/tests.json")
LEFT = Path(".mutants/left.json")
EXPLAINED = Path(__file__).with_name("survivors.toml")
FAST = "not slow and not gpu and not internet"
MOST_LEFT = 0.10
# What computes longer hangs: seconds, or times what the test takes. They are counted
# on the processor, so that a busy machine kills no mutant; who only waits has longer.
ENDLESS = (10.0, 4.0)
WAITING = 30.0

T = TypeVar("T")
Tests = dict[str, dict[str, Any]]

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.Is: ast.IsNot,
    ast.In: ast.NotIn,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARISONS |= {there: here for here, there in COMPARISONS.items()}
NAMES = {"min": "max", "argmin": "argmax", "minimum": "maximum", "amin": "amax"}
NAMES |= {there: here for here, there in NAMES.items()}
NOT_MUTATED = (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
NOT_ENTERED = {"annotation", "returns", "decorator_list", "type_params"}


class Place(NamedTuple):
    """Where a node hangs in a syntax tree."""

    parent: ast.AST
    field: str
    at: int | None

    def put(self, node: ast.AST) -> None:
        if self.at is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.at] = node


@dataclass(frozen=True, eq=False)
class Mutant:
    """One node of a module replaced; `before` and `after` are its statement's text."""

    file: str
    function: str
    first_line: int
    lines: range
    before: str
    after: str
    tree: ast.Module
    place: Place
    node: ast.AST

    @property
    def name(self) -> str:
        return f"{self.file} {self.function} | {self.before} | {self.after}"

    @property
    def is_default(self) -> bool:
        """Whether it changes an argument's default, evaluated when it was defined."""
        return isinstance(self.place.parent, ast.arguments)


def mutants_of(source: str, file: str) -> list[Mutant]:
    """Return every mutant of a module's functions, each with a name of its own."""
    tree = ast.parse(source)
    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for qualname, function in outermost_functions(tree):
        decorators = [node.lineno for node in function.decorator_list]
        first_line = min([function.lineno, *decorators])
        for place, node, statement, is_own in places(function, function, True):
            for changed in changes(node):
                ast.fix_missing_locations(ast.copy_location(changed, node))
                before, after = texts(place, node, changed, statement)
                key = (qualname, before, after)
                seen[key] += 1
                mark = f" #{seen[key]}" if seen[key] > 1 else ""
                lines = lines_of(function) if is_own else header_lines(statement)
                found.append(
                    Mutant(
                        *(file, qualname, first_line, lines, before, after + mark),
                        *(tree, place, changed),
                    )
                )
    return found


def outermost_functions(
    node: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from outermost_functions(child, f"{prefix}{child.name}.")


def places(
    parent: ast.AST, statement: ast.stmt, is_own: bool
) -> Iterator[tuple[Place, ast.AST, ast.stmt, bool]]:
    """Yield each node below one, its statement, and whether it is of its signature."""
    for field, value in ast.iter_fields(parent):
        if field in NOT_ENTERED:
            continue
        children = value if isinstance(value, list) else [value]
        for index, node in enumerate(children):
            if not isinstance(node, ast.AST) or is_left_alone(node):
                continue
            place = Place(parent, field, index if isinstance(value, list) else None)
            inside = node if isinstance(node, ast.stmt) else statement
            own = is_own and not isinstance(node, ast.stmt)
            yield place, node, inside, own
            yield from places(node, inside, own)


def is_left_alone(node: ast.AST) -> bool:
    """Tell whether a node only talks: docstrings, messages, log lines, assertions."""
    if isinstance(node, ast.Expr):
        text = ast.unparse(node.value)
        return isinstance(node.value, ast.Constant) or text.startswith(
            ("log.", "print(")
        )
    return isinstance(node, NOT_MUTATED)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node is replaced by, one change at a time."""
    match node:
        case ast.Compare(left, operators, right):
            for index, operator in enumerate(operators):
                other = COMPARISONS[type(operator)]()
                changed = [*operators[:index], other, *operators[index + 1 :]]
                yield ast.Compare(left, changed, right)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(
                ast.Or() if type(operator) is ast.And else ast.And(), values
            )
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Name(name) if name in NAMES:
            yield ast.Name(NAMES[name], node.ctx)
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.Attribute(value, NAMES[name], node.ctx)
        case ast.Call(function, arguments, keywords):
            for dropped in keywords:
                if dropped.arg is not None:
                    kept = [keyword for keyword in keywords if keyword is not dropped]
                    yield ast.Call(function, arguments, kept)
        case ast.If(test, body, otherwise) if not isinstance(test, ast.UnaryOp):
            yield from (ast.If(ast.Constant(b), body, otherwise) for b in (True, False))
        case ast.IfExp(test, one, other) if not isinstance(test, ast.UnaryOp):
            yield from (ast.IfExp(ast.Constant(b), one, other) for b in (True, False))
        case ast.Return(value) if value is not None and not is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.AugAssign():
            yield ast.Pass()


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def texts(
    place: Place, node: ast.AST, changed: ast.AST, statement: ast.stmt
) -> tuple[str, str]:
    """Return a statement's text without and with a change."""
    before = header(statement)
    if statement is node:
        assert isinstance(changed, ast.stmt)
        return before, header(changed)
    place.put(changed)
    after = header(statement)
    place.put(node)
    return before, after


def header(statement: ast.stmt) -> str:
    """Return a statement's text without the statements inside."""
    shallow = copy.copy(statement)
    for field in ("body", "orelse", "finalbody", "handlers", "cases", "decorator_list"):
        if hasattr(shallow, field):
            setattr(shallow, field, [])
    return ast.unparse(shallow)


def header_lines(statement: ast.stmt) -> range:
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if body else statement.end_lineno
    return range(statement.lineno, max(statement.lineno, end or 0) + 1)


def lines_of(function: ast.FunctionDef) -> range:
    return range(function.body[0].lineno, (function.end_lineno or 0) + 1)


Functions = dict[tuple[str, str, int], list[FunctionType]]


def live_functions() -> Functions:
    """Return all functions there are, by file, qualified name and first line."""
    found: Functions = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            code = thing.__code__
            key = (code.co_filename, code.co_qualname, code.co_firstlineno)
            found[key].append(thing)
    return found


def codes(outer: CodeType) -> Iterator[CodeType]:
    """Yield all code inside a module, a class or a function."""
    for code in outer.co_consts:
        if isinstance(code, CodeType):
            yield code
            yield from codes(code)


def make_live(mutant: Mutant, functions: Functions, root: Path) -> None:
    """Replace a function of this process by its mutant, wherever it is referred to.

    What it returned at import, a decorator's closure, is replaced as well.
    """
    path = str(root / mutant.file)
    alive = functions[path, mutant.function, mutant.first_line]
    assert alive, f"no live function for {mutant.name}"
    if mutant.is_default:
        for function in alive:
            change_default(function, mutant.place, mutant.node)
        return
    mutant.place.put(mutant.node)
    for code in codes(compile(mutant.tree, path, "exec")):
        if f"{code.co_qualname}.".startswith(f"{mutant.function}."):
            for function in functions[path, code.co_qualname, code.co_firstlineno]:
                function.__code__ = code


def change_default(function: FunctionType, place: Place, node: ast.AST) -> None:
    assert isinstance(place.parent, ast.arguments)
    assert isinstance(node, ast.expr)
    assert place.at is not None
    value = eval(
        compile(ast.Expression(node), function.__code__.co_filename, "eval"),
        function.__globals__,
    )
    if place.field == "kw_defaults":
        name = place.parent.kwonlyargs[place.at].arg
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), name: value}
    else:
        defaults = list(function.__defaults__ or ())
        defaults[place.at] = value
        function.__defaults__ = tuple(defaults)


class Forks:
    """Does work in copies of this process, some at a time, each with a folder."""

    def __init__(self, jobs: int, folder: Path) -> None:
        self.jobs = jobs
        self.folder = folder

    def run(
        self, tasks: Iterable[T], work: Callable[[T, Path], Any]
    ) -> Iterator[tuple[T, Any]]:
        """Yield each task with what its work returned; None where that died."""
        waiting, running = iter(tasks), dict[int, T]()
        while True:
            while len(running) < self.jobs:
                if (task := next(waiting, None)) is None:
                    break
                running[self._fork(task, work)] = task
            if not running:
                return
            pid, _status = os.wait()
            folder = self.folder / str(pid)
            result = folder / "result.json"
            returned = result.read_text("utf-8") if result.exists() else "null"
            yield running.pop(pid), json.loads(returned)
            shutil.rmtree(folder, ignore_errors=True)

    def _fork(self, task: T, work: Callable[[T, Path], Any]) -> int:
        if pid := os.fork():
            return pid
        try:
            os.setpgid(0, 0)  # a test, or a mutant, may end its whole group
            folder = self.folder / str(os.getpid())
            folder.mkdir()
            tempfile.tempdir = str(folder)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            result = json.dumps(work(task, folder))
            (folder / "partial.json").write_text(result)
            (folder / "partial.json").rename(folder / "result.json")
        finally:
            os._exit(0)


def passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    return not any(
        report.failed for report in runtestprotocol(item, log=False, nextitem=following)
    )


def watched(item: pytest.Item, files: set[str], root: Path) -> dict[str, Any]:
    """Run a test and return how long it takes and which lines of files it runs."""
    lines: dict[str, set[int]] = defaultdict(set)

    def inside(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            lines[frame.f_code.co_filename].add(frame.f_lineno)
        return inside

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        return inside if frame.f_code.co_filename in files else None

    threading.settrace(trace)
    sys.settrace(trace)
    started = perf_counter()
    passed = passes(item, None)
    sys.settrace(None)
    return {
        "passes": passed,
        "seconds": perf_counter() - started,
        "lines": {
            Path(file).relative_to(root).as_posix(): sorted(numbers)
            for file, numbers in lines.items()
        },
    }


class Session:
    """The pytest plugin: takes the place of the loop that runs the tests."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root: Path = options.root.resolve()
        self.files = sorted(
            path.relative_to(self.root).as_posix()
            for place in options.only
            for path in python_files(self.root / place)
        )
        self.failed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Let hypothesis try the same examples, and end with the first that fails."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutants", deadline=None, database=None, derandomize=True, phases=phases
        )
        hypothesis.settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for file in self.files:
            importlib.import_module(file.removesuffix(".py").replace("/", "."))
        self.items = {item.nodeid: item for item in session.items}
        self.functions = live_functions()
        gc.freeze()
        manager = session.config.pluginmanager.getplugin("capturemanager")
        with (
            tempfile.TemporaryDirectory() as folder,
            manager.global_and_fixture_disabled(),
        ):
            self.forks = Forks(self.options.jobs, Path(folder))
            self.tests = self._known_tests()
            report = self._judge(self._mutants())
        self.failed = report
        return True

    def _known_tests(self) -> Tests:
        """Return what is known of each test; those that changed are run again."""
        cache = self.root / CACHE
        known = json.loads(cache.read_text()) if cache.exists() else {}
        shared = self._digest()
        keys = {
            name: hashlib.sha256(shared + item.path.read_bytes()).hexdigest()
            for name, item in self.items.items()
        }
        tests = {
            name: known[name]
            for name in self.items
            if known.get(name, {}).get("key") == keys[name] and known[name]["passes"]
        }
        missing: dict[Path, list[str]] = defaultdict(list)
        for name in [name for name in self.items if name not in tests]:
            missing[self.items[name].path].append(name)
        print(f"{len(tests)} tests are known; watching those of {len(missing)} files")
        for path, found in self.forks.run(missing, partial(self._watch, missing)):
            print(path.relative_to(self.root), flush=True)
            for name in missing[path]:
                tests[name] = {"passes": False, **(found or {}).get(name, {})}
                tests[name]["key"] = keys[name]
                if not tests[name]["passes"]:
                    print(f"left out, since it fails by itself: {name}", flush=True)
            cache.parent.mkdir(exist_ok=True)
            cache.write_text(json.dumps(tests))
        return {name: test for name, test in tests.items() if test["passes"]}

    def _digest(self) -> bytes:
        """Return a digest of all code but the tests themselves."""
        digest = hashlib.sha256()
        for path in python_files(self.root):
            if not path.name.startswith("test_") and path != Path(__file__):
                digest.update(path.read_bytes())
        return digest.digest()

    def _watch(
        self, names: dict[Path, list[str]], path: Path, folder: Path
    ) -> dict[str, Any]:
        files = {str(path) for room in ROOMS for path in python_files(self.root / room)}
        files |= {str(self.root / file) for file in self.files}
        return {
            name: watched(self._own_folder(name, folder), files, self.root)
            for name in names[path]
        }

    def _own_folder(self, name: str, folder: Path) -> pytest.Item:
        item = self.items[name]
        item.config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]
        return item

    def _mutants(self) -> list[Mutant]:
        mutants = [
            mutant
            for file in self.files
            for mutant in mutants_of((self.root / file).read_text("utf-8"), file)
        ]
        if wanted := self.options.names:
            mutants = [mutant for mutant in mutants if wanted in mutant.name]
        if self.options.again:
            left = set(json.loads((self.root / LEFT).read_text()))
            mutants = [mutant for mutant in mutants if mutant.name in left]
        if self.options.sample:
            random.Random(self.options.seed).shuffle(mutants)
            mutants = mutants[: self.options.sample]
        return mutants

    def _judge(self, mutants: list[Mutant]) -> bool:
        """Try all mutants; print who survives, a table, and tell whether too many."""
        self.kills: Counter[str] = Counter()
        table: dict[str, Counter[str]] = defaultdict(Counter)
        left: list[str] = []
        explained = explanations(self.options.explained)
        for mutant, result in self.forks.run(mutants, self._attempt):
            verdict, test = result or ("timed out", "")
            self.kills[test] += 1
            if mutant.name in explained:
                if verdict == "killed":
                    print(f"explained, but killed by {test}:\n  {mutant.name}")
                verdict = verdict if verdict == "killed" else "explained"
            table[mutant.file][verdict] += 1
            if verdict in ("survives", "never run"):
                left.append(mutant.name)
                print(
                    f"{mutant.file}:{mutant.lines.start} {mutant.function}: {verdict}\n"
                    f"- {mutant.before}\n+ {mutant.after}",
                    flush=True,
                )
        (self.root / LEFT).write_text(json.dumps(left, indent=1))
        return print_table(table)

    def _attempt(self, mutant: Mutant, folder: Path) -> tuple[str, str]:
        """Return the verdict on a mutant, and the test that killed it."""
        names = self._tests_of(mutant)
        if not names:
            return "never run", ""
        try:
            make_live(mutant, self.functions, self.root)
        except (SyntaxError, ValueError):
            return "not valid", ""
        for name, following in zip(names, [*names[1:], None], strict=True):
            item = self._own_folder(name, folder)
            limit = max(ENDLESS[0], ENDLESS[1] * self.tests[name]["seconds"])
            signal.setitimer(signal.ITIMER_PROF, limit)
            signal.setitimer(signal.ITIMER_REAL, WAITING * limit)
            if not passes(item, self.items[following] if following else None):
                return "killed", name
        return "survives", ""

    def _tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run a mutant, those that kill quickly first."""
        lines = set(mutant.lines)
        names = [
            name
            for name, test in self.tests.items()
            if not lines.isdisjoint(test["lines"].get(mutant.file, ()))
        ]
        names.sort(
            key=lambda name: self.tests[name]["seconds"] / (1 + self.kills[name])
        )
        spent = 0.0
        for count, name in enumerate(names):
            spent += self.tests[name]["seconds"]
            if count and spent > self.options.patience:
                return names[:count]
        return names


def python_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = place.rglob("*.py")
    return sorted(
        path
        for path in found
        if path.name != "__init__.py"
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
    )


def explanations(file: Path) -> dict[str, str]:
    """Return the reason for each survivor that is explained, by the mutant's name."""
    groups = tomllib.loads(file.read_text("utf-8")).get("because", [])
    return {name: group["why"] for group in groups for name in group["mutants"]}


def print_table(table: dict[str, Counter[str]]) -> bool:
    """Print a row per file and tell whether too many survive without a reason."""
    verdicts = [
        "killed",
        "survives",
        "never run",
        "explained",
        "not valid",
        "timed out",
    ]
    total = sum(table.values(), Counter[str]())
    print(f"\n{'':42}" + "".join(f"{verdict:>10}" for verdict in verdicts))
    for file, counts in [*sorted(table.items()), ("together", total)]:
        print(f"{file:42}" + "".join(f"{counts[verdict]:10}" for verdict in verdicts))
    left = total["survives"] + total["never run"]
    tried = left + total["killed"] + total["timed out"]
    print(
        f"{left} of {tried} that change behavior are left; at most {MOST_LEFT:.0%} may"
    )
    return left > MOST_LEFT * tried


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", default=ROOMS, metavar="PATH", help="files or folders")
    add("--names", help="only mutants whose name contains this")
    add("--again", action="store_true", help="only those that were left last time")
    add("--sample", type=int, metavar="N", help="so many, drawn at random")
    add("--seed", type=int, default=0, help="of the sample")
    add("--jobs", type=int, default=2, help="forks at a time")
    add("--patience", type=float, default=1e9, metavar="SECONDS", help="of tests")
    add("--root", type=Path, default=ROOT, help="of the project")
    add("--explained", type=Path, default=EXPLAINED, help="survivors with a reason")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Try the mutants and return 1 if too many survive."""
    session = Session(options_of(arguments))
    flags = ["--capture=sys", "-p", "no:xdist", "-p", "no:cacheprovider", "-qq"]
    with contextlib.chdir(session.root):
        flags += ["--rootdir=.", "--disable-warnings", "-m", FAST]
        status = pytest.main(flags, plugins=[session])
    return int(status) or int(session.failed)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
