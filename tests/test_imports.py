"""The import rules: which room of the house may know which (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "fairfal_flwr"

# A room knows the floors below its own and nobody beside it; what shares a line shares
# a floor.
FLOORS = (
    ("errors", "kinds", "malloc"),
    ("files", "paths", "randomness", "device", "console"),
    ("tensor_file",),
    ("messages", "models", "query", "runs"),
    ("data", "report"),
    ("config",),
    ("client", "server"),
    ("annotate",),
    ("command", "generate"),
    ("__init__",),  # of the package: what it offers a notebook
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# What a room must not import of the rest. A prefix covers everything below it.
FLOWER = {"flwr", "flwr_datasets", "ray"}
PURE = {
    *FLOWER,
    *("os", "pathlib", "io", "shutil", "tempfile", "sqlite3", "socket", "urllib"),
    *("time", "datetime", "random", "numpy.random", "logging"),
    *(f"{PACKAGE}.{room}" for room in ("paths", "files")),
}
FORBIDDEN = {
    "query": PURE,
    "models": PURE,
    "runs": FLOWER
    | {"torch", "torchvision", "numpy"}
    | {f"{PACKAGE}.{module}" for module in ("device", "randomness", "console")},
    "data": FLOWER | {f"{PACKAGE}.{room}" for room in ("query", "messages")},
    "report": FLOWER
    | {"torch", *(f"{PACKAGE}.{room}" for room in ("query", "models", "messages"))},
    "client": FLOWER,
    "server": FLOWER,
    "annotate": FLOWER | {"torch", "torchvision"},
}

# The few files that stand at a border, and what each may know beyond its room.
ALLOWED = {
    # Weights to start from are a file's, and where they are is all that it is told.
    "models/initial.py": {"pathlib"},
    "data/flower_partitioner.py": {"flwr_datasets.partitioner"},
    "client/node.py": {"flwr.app"},
    "client/mods.py": {"flwr.app"},
    "server/campaign.py": {"flwr.serverapp"},
    "server/clients.py": {"flwr.app", "flwr.serverapp"},
    "server/exchange.py": {"flwr.app", "flwr.serverapp", "flwr.common.constant"},
    "server/federation.py": {"flwr.app", "flwr.serverapp"},
    "server/sampling.py": {"flwr.serverapp"},
    "server/strategies.py": {"flwr.app", "flwr.serverapp"},
    "server/scaffold.py": {"flwr.app", "flwr.serverapp"},
    "server/replies.py": {"flwr.app"},
    "server/privacy.py": {"flwr.app", "flwr.serverapp"},
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


def room_of(module: str) -> str:
    """Return the room of a file or of a module's full name, without its package.

    Examples
    --------
    >>> room_of("query/entropy.py"), room_of("errors.py"), room_of("models.inference")
    ('query', 'errors', 'models')
    """
    return module.replace("/", ".").split(".")[0]


def runs_upward(room: str, name: str) -> bool:
    """Tell whether a room imports a room that is not below it."""
    other = room_of(name.removeprefix(f"{PACKAGE}."))
    if not below(name, {PACKAGE}) or other in (room, "__version__"):
        return False
    return FLOOR_OF[other] >= FLOOR_OF[room]


def forbidden(file: str, name: str) -> bool:
    room = room_of(file)
    return below(name, FORBIDDEN.get(room, set())) or runs_upward(room, name)


def offences(file: str, code: str) -> list[str]:
    """Return the forbidden imports of a module of the package."""
    allowed = ALLOWED.get(file, set())
    return [
        name
        for name in imports(code)
        if forbidden(file, name) and not below(name, allowed)
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


def test_every_room_has_its_floor():
    rooms = {room_of(file) for file in modules()}
    assert rooms == FLOOR_OF.keys()


@pytest.mark.parametrize(
    ("file", "name"),
    [(file, name) for file in ALLOWED for name in sorted(ALLOWED[file])],
)
def test_every_exception_is_made_use_of(file, name):
    assert any(below(imported, {name}) for imported in imports(code_of(file)))


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
        ("server/x.py", "from fairfal_flwr.command import launch"),
        ("report/x.py", "from fairfal_flwr.server import recorder"),
        ("report/x.py", "from fairfal_flwr.data import load_shard"),
        ("runs/x.py", "from fairfal_flwr.config import RunConfig"),
        ("runs/x.py", "from fairfal_flwr import messages"),
        ("runs/x.py", "import fairfal_flwr.report.compare"),
        ("runs/x.py", "def f():\n    import torch"),
        ("query/x.py", "from fairfal_flwr import files"),
        ("query/x.py", "from fairfal_flwr.models import predict"),
        ("config.py", "from fairfal_flwr.client.ledger import Ledger"),
        ("data/x.py", "from fairfal_flwr.config import RunConfig"),
        ("errors.py", "from fairfal_flwr.paths import home"),
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
        ("runs/x.py", "from fairfal_flwr.files import replacing"),
        ("report/x.py", "from fairfal_flwr.runs.reader import read_run"),
        ("server/x.py", "from fairfal_flwr.report import compare"),
        ("server/x.py", "from fairfal_flwr import __version__"),
        ("command/x.py", "import flwr\nfrom fairfal_flwr.server import recorder"),
    ],
)
def test_the_checker_lets_the_allowed_pass(file, code):
    assert offences(file, code) == []


def test_the_checker_sees_a_decorator():
    code = "@app.query('status')\ndef f(): ...\n@app.main()\nasync def g(): ..."
    assert flower_decorators(code) == ["app.query('status')", "app.main()"]
