"""The import rules: which room of the house may know which (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "fairfal_flwr"

# What each room must not import. A prefix covers everything below it.
FORBIDDEN = {
    "query": {
        *("flwr", "flwr_datasets", "ray"),
        *("os", "pathlib", "io", "shutil", "tempfile", "sqlite3", "socket", "urllib"),
        *("time", "datetime", "random", "numpy.random", "logging"),
        *(f"{PACKAGE}.{room}" for room in ("data", "client", "server", "report")),
        *(f"{PACKAGE}.{module}" for module in ("messages", "config", "paths", "files")),
    },
    "data": {
        *("flwr", "flwr_datasets", "ray"),
        *(f"{PACKAGE}.{room}" for room in ("query", "client", "server", "report")),
        *(f"{PACKAGE}.{module}" for module in ("messages", "config")),
    },
    "client": {"flwr", "flwr_datasets", "ray", f"{PACKAGE}.server"},
    "server": {"flwr", "flwr_datasets", "ray", f"{PACKAGE}.client"},
    "report": {
        *("flwr", "flwr_datasets", "ray", "torch"),
        *(f"{PACKAGE}.{room}" for room in ("query", "client", "server", "data")),
        f"{PACKAGE}.messages",
    },
}
FORBIDDEN["models"] = FORBIDDEN["query"] | {f"{PACKAGE}.query"}

# The few files that stand at a border, and what each may know of what lies beyond.
ALLOWED = {
    # Weights to start from are a file's, and where they are is all that it is told.
    "models/initial.py": {"pathlib"},
    "data/flower_partitioner.py": {"flwr_datasets.partitioner"},
    "client/node.py": {"flwr.app"},
    "client/mods.py": {"flwr.app", "flwr.clientapp.mod"},
    "server/campaign.py": {"flwr.app", "flwr.serverapp"},
    "server/clients.py": {"flwr.app", "flwr.serverapp", "flwr.common.constant"},
    "server/strategies.py": {"flwr.app", "flwr.serverapp"},
    "server/scaffold.py": {"flwr.app", "flwr.serverapp"},
    "server/replies.py": {"flwr.app"},
    "server/privacy.py": {
        *("flwr.app", "flwr.serverapp", "flwr.supercore.privacy_accounting"),
    },
}

DECORATORS = {"main", "train", "evaluate", "query", "lifespan"}


def imports(code: str) -> Iterator[str]:
    """Yield the full name of all that a module imports, wherever it does.

    Imports for type checkers alone count too: a room that needs a name knows it.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is known"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, prefixes: set[str]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def offences(file: str, code: str) -> list[str]:
    """Return the forbidden imports of a module of the package."""
    forbidden = FORBIDDEN.get(file.split("/")[0], set())
    allowed = ALLOWED.get(file, set())
    return [
        name
        for name in imports(code)
        if below(name, forbidden) and not below(name, allowed)
    ]


def flower_decorators(code: str) -> list[str]:
    """Return the decorators of ServerApp and ClientApp objects in a module."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        ast.unparse(decorator)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, functions)
        for decorator in node.decorator_list
        if isinstance(call := getattr(decorator, "func", decorator), ast.Attribute)
        and ast.unparse(call.value) == "app"
        and call.attr in DECORATORS
    ]


def modules() -> list[str]:
    folder = ROOT / PACKAGE
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py"))


def code_of(file: str) -> str:
    return (ROOT / PACKAGE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", modules())
def test_a_module_imports_only_what_its_room_may_know(file):
    assert offences(file, code_of(file)) == []


@pytest.mark.parametrize("file", modules())
def test_flowers_decorators_stand_only_in_the_root_modules(file):
    assert flower_decorators(code_of(file)) == []


@pytest.mark.parametrize("name", ["client_app.py", "server_app.py"])
def test_the_root_modules_do_hold_flowers_decorators(name):
    assert flower_decorators((ROOT / name).read_text(encoding="utf-8"))


def test_every_exception_names_a_file_that_exists():
    assert ALLOWED.keys() <= set(modules())


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("query/x.py", "import flwr"),
        ("query/x.py", "def f():\n    from time import perf_counter"),
        ("models/x.py", "from fairfal_flwr.query import select"),
        ("models/x.py", "from pathlib import Path"),
        ("data/x.py", "from flwr_datasets.partitioner import Partitioner"),
        ("data/flower_partitioner.py", "from flwr.app import Message"),
        ("data/x.py", "if TYPE_CHECKING:\n    from fairfal_flwr import client"),
        (
            "data/x.py",
            "if TYPE_CHECKING:\n    from fairfal_flwr.config import RunConfig",
        ),
        ("client/x.py", "from fairfal_flwr.server.campaign import Campaign"),
        ("client/x.py", "from flwr.app import Message"),
        ("server/recorder.py", "from flwr.app import ArrayRecord"),
        ("server/x.py", "import fairfal_flwr.client.ledger as ledger"),
        ("report/x.py", "from fairfal_flwr.server import recorder"),
    ],
)
def test_the_checker_sees_an_offence(file, code):
    assert len(offences(file, code)) == 1


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("query/x.py", "import torch\nfrom fairfal_flwr.query.quota import f"),
        ("data/flower_partitioner.py", "from flwr_datasets.partitioner import X"),
        ("server/strategies.py", "from flwr.serverapp.strategy import FedAvg"),
        ("client/x.py", "import flwrx\nfrom fairfal_flwr.messages import Weights"),
        ("messages.py", "from flwr.app import RecordDict"),
    ],
)
def test_the_checker_lets_the_allowed_pass(file, code):
    assert offences(file, code) == []


def test_the_checker_sees_a_decorator():
    code = "@app.query('status')\ndef f(): ...\n@app.main()\nasync def g(): ..."
    assert flower_decorators(code) == ["app.query('status')", "app.main()"]
