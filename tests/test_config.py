"""The run config: one place, one line for every mistake."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict

from fairfal_flwr.config import RunConfig, TrainConfig
from fairfal_flwr.config.federation import AGGREGATIONS
from fairfal_flwr.config.generated import OBJECTIVES, STRATEGIES
from fairfal_flwr.config.taken import RULES
from fairfal_flwr.errors import UserError
from fairfal_flwr.generate.keys import section_options
from fairfal_flwr.generate.reference import reference
from fairfal_flwr.generate.tables import fill_table, replace_config
from fairfal_flwr.generate.write import OUTPUTS

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "configs").rglob("*.toml"))
OPTIONS = {
    *STRATEGIES,
    *OBJECTIVES,
    "adaptive",
}  # sections that are made from functions
OWN = "examples.my_strategy:rarest_first"


def test_pyproject_holds_every_key_with_its_default():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    keys = flatten_dict(project["tool"]["flwr"]["app"]["config"])
    assert keys == RunConfig().to_flat()


def test_flat_form_round_trips():
    config = RunConfig.from_flat({"seed": 3, "train.lr": 1, "query.strategy": "random"})
    assert RunConfig.from_flat(config.to_flat()) == config
    assert (config.seed, config.train.lr, config.query.strategy) == (3, 1.0, "random")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(path):
    RunConfig.from_flat(flatten_dict(tomllib.loads(path.read_text())))


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("train.lr", -1.0, "`train.lr` is -1.0; allowed: number > 0"),
        ("train.lr", float("nan"), "`train.lr` is nan; allowed: number > 0"),
        ("train.momentum", 1.0, "allowed: number >= 0 < 1"),
        ("seed", 1.5, "`seed` is 1.5; allowed: integer >= 0"),
        ("seed", True, "`seed` is True; allowed: integer >= 0"),
        ("seed", "7", "`seed` is '7'; allowed: integer >= 0"),
        ("num-clients", 0, "`num-clients` is 0; allowed: integer >= 1"),
        ("device", "gpu", "`device` is 'gpu'; allowed: auto, cpu, cuda"),
        ("data.alpha", 0.0, "`data.alpha` is 0.0; allowed: number > 0"),
        ("campaign.budget", 1.5, "`campaign.budget` is 1.5; allowed: number > 0 <= 1"),
        (
            "query.strategy",
            "farfal",
            r"`query.strategy` is 'farfal' \(did you mean `fairfal`\?\); allowed: ",
        ),
        ("train.horizontal-flip", 1, "allowed: true or false"),
        ("train.learning-rate", 0.1, "unknown key `train.learning-rate`"),
        (
            "train.ephochs",
            1,
            "unknown key `train.ephochs` \\(did you mean `train.epochs`\\?\\)",
        ),
        ("nonsense.key", 1, "unknown key `nonsense.key`"),
        ("train", 1, "`train` is 1; allowed: a section of keys"),
    ],
)
def test_a_mistake_gets_one_line_that_names_the_key(key, value, line):
    with pytest.raises(UserError, match=line) as error:
        RunConfig.from_flat({key: value})
    assert "\n" not in str(error.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(UserError, match=r"`seed` is -1.*`train.lr` is 0"):
        RunConfig.from_flat({"seed": -1, "train.lr": 0.0})


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"chase.subset": 3},
            "`chase.subset` is 3, but `query.strategy` fairfal "
            "does not take it; allowed with: chase.",
        ),
        (
            {"query.strategy": "random", "fairfal.k-center": False},
            "`query.strategy` random does not .* with: fairfal",
        ),
        ({"query.strategy": OWN, "bald.num-passes": 3}, "allowed with: bald"),
        ({"kcfu.beta": 1.0}, "`train.objective` supervised .* with: kcfu"),
        ({"train.objective": "kcfu", "alignment.weight": 2.0}, "with: alignment"),
        (
            {"distill.weight": 0.5},
            "`query.strategy` fairfal with `query.model` auto "
            "does not take it; allowed with: ifal, or `query.model` distilled",
        ),
        (
            {"query.strategy": "random", "local.max-epochs": 3},
            "allowed with: .*logo, "
            "or `query.model` local, finetuned, adaptive, adaptive-reversed",
        ),
        ({"query.strategy": "ksas", "adaptive.threshold": 0.5}, "with: fairfal, or"),
        ({"query.model": "local", "adaptive.threshold": 0.5}, "`query.model` local "),
        ({"query.strategy": "egl", "adaptive.balance-seed": 1}, "with: fairfal, or"),
        ({"query.strategy": OWN, "adaptive.threshold": 0.5}, "with: fairfal, or"),
        (
            {"federation.proximal-mu": 0.5},
            "`federation.strategy` fedavg does not take it; allowed with: fedprox",
        ),
        ({"federation.eta": 0.5}, "with: fedadam, fedadagrad, fedyogi"),
        ({"federation.num-malicious-nodes": 1}, "with: krum, multikrum, bulyan"),
        ({"federation.server-learning-rate": 0.5}, "with: fedavgm, scaffold"),
        ({"privacy.noise-multiplier": 2.0}, "`privacy.mechanism` none does not"),
        (
            {"privacy.mechanism": "server-fixed", "privacy.epsilon": 3.0},
            "`privacy.epsilon` is 3.0.*allowed with: local",
        ),
        ({"data.classes-per-client": 3}, "with: pathological, shard"),
        (
            {"data.partitioner": "iid", "data.alpha": 1.0},
            "with: balanced-dirichlet, dirichlet, inner-dirichlet",
        ),
    ],
)
def test_a_key_that_the_choices_do_not_take_is_refused_with_its_owners(values, line):
    with pytest.raises(UserError, match=line) as error:
        RunConfig.from_flat(values)
    assert "\n" not in str(error.value)
    left = RunConfig.keep_taken(values)
    assert len(left) == len(values) - 1
    RunConfig.from_flat(left)


@pytest.mark.parametrize(
    "values",
    [
        {"chase.subset": 3, "query.strategy": "chase"},
        {"kcfu.beta": 1.0, "train.objective": "kcfu"},
        {"distill.weight": 0.5, "query.strategy": "ifal"},
        {"distill.weight": 0.5, "query.strategy": "egl", "query.model": "distilled"},
        {"local.max-epochs": 3},
        {"local.max-epochs": 3, "query.strategy": "finetuning"},
        {"local.max-epochs": 3, "query.strategy": "egl", "query.model": "adaptive"},
        {"local.max-epochs": 3, "query.strategy": OWN, "query.model": "local"},
        {"adaptive.threshold": 0.5},
        {"adaptive.threshold": 0.5, "query.model": "adaptive-reversed"},
        {"adaptive.threshold": 0.5, "query.strategy": "egl", "query.model": "adaptive"},
        {"adaptive.balance-seed": 1, "query.model": "global"},  # for gamma
        {"federation.eta": 0.5, "federation.strategy": "fedyogi"},
        {"privacy.epsilon": 3.0, "privacy.mechanism": "local"},
        {"data.alpha": 1.0, "data.partitioner": "dirichlet"},
        {"data.classes-per-client": 3, "data.partitioner": "shard"},
        {"chase.subset": 500, "kcfu.beta": 2.0, "privacy.epsilon": 1.0},  # defaults
    ],
)
def test_a_key_that_the_choices_take_is_accepted(values):
    RunConfig.from_flat(values)
    assert RunConfig.keep_taken(values) == values


OWN_OPTIONS = {"query.strategy": OWN, "query.options": "model='local'"}


def test_options_of_ones_own_strategy_are_pairs_in_one_key():
    assert RunConfig.from_flat(OWN_OPTIONS).strategy_options(OWN) == {"model": "local"}
    assert RunConfig.from_flat(OWN_OPTIONS).strategy_options("random") == {}


@pytest.mark.parametrize(
    ("strategy", "text", "line"),
    [
        (OWN, "radius=2", r"Unknown options \['radius'\]; known: \['model'\]"),
        (OWN, "model=best", r"Expected model: global, local; got 'best'"),
        (OWN, "model", r"'model' is no pair; allowed: such as 'radius=0.5'"),
        ("bald", "num-passes=3", r"allowed with .* 'bald': the section \[bald\]"),
    ],
)
def test_options_that_it_does_not_take_are_refused(strategy, text, line):
    values = {"query.strategy": strategy, "query.options": text}
    with pytest.raises(UserError, match=rf"`query.options` is .*{line}"):
        RunConfig.from_flat(values)


def test_every_rule_is_about_a_section_or_a_key():
    keys = RunConfig().to_flat()
    sections = {key.rpartition(".")[0] for key in keys} | set(STRATEGIES)
    sections |= set(OBJECTIVES)
    assert RULES.keys() <= keys.keys() | sections
    for rule in RULES.values():
        assert set(rule.choices) <= keys.keys()


@pytest.mark.parametrize("file", OUTPUTS)
def test_what_is_generated_is_up_to_date(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert OUTPUTS[file](text) == text, f"{file} is out of date: make config"


def test_reference_names_every_key():
    assert all(f"| `{key}` |" in reference() for key in RunConfig().to_flat())


PAGE = """
before
<!-- make config: things -->
| thing | made | said |
|---|---|---|
| `b` | old | by hand |
| `gone` | old | by hand |
| `a` | old | first |
<!-- end -->
after | b |
"""


def test_a_table_keeps_what_was_written_by_hand():
    new = fill_table(PAGE, "things", {n: {"made": n.upper()} for n in ("a", "b", "c")})
    assert (
        new
        == """
before
<!-- make config: things -->
| thing | made | said |
|---|---|---|
| `b` | B | by hand |
| `a` | A | first |
| `c` | C | ? |
<!-- end -->
after | b |
"""
    )
    with pytest.raises(ValueError, match="make config: thin -->"):
        fill_table(PAGE, "thin", {})


@pytest.mark.parametrize("end", ["", "\n# About x\n[tool.x]\nconfig = 1\n"])
def test_the_rest_of_pyproject_stays_as_it_is(end):
    head = "# [tool.flwr.app.config]\n[tool.flwr.app]\nx = 1\n\n"
    old = "[tool.flwr.app.config]\na = 1 # one\n\n[tool.flwr.app.config.b]\nc = 2\n"
    new = "[tool.flwr.app.config]\na = 3\n"
    assert replace_config(head + old + end, new) == head + new + end


def test_reading_a_config_takes_no_pytorch():
    """Nor anything else that is slow to import."""
    code = (
        "import sys\n"
        "from fairfal_flwr.config import RunConfig\n"
        "values = {'query.strategy': 'egl', 'query.model': 'adaptive', 'egl.x': 1}\n"
        "try: RunConfig.from_flat(values)\n"
        "except Exception as error: print(error)\n"
        "del values['egl.x']\n"
        "RunConfig.from_flat(values | {'adaptive.threshold': 0.5})\n"
        "print({'torch', 'flwr', 'sklearn', 'numpy'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert printed == "Run config: unknown key `egl.x`.\nset()\n"


def last_word(node: ast.AST) -> str:
    """Return `c` of the expressions `c`, `a.b.c` and `"c"`."""
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.Constant(str(word)):
            return word
    return ""


def reads(tree: ast.Module) -> set[tuple[str, str]]:
    """Return pairs of whose attribute a module reads, and which.

    Whose is what the variable was taken from, `train` for ``t = config.train``, the
    class that it is annotated with, and its own name.
    """
    nodes = list(ast.walk(tree))
    owners: dict[str, set[str]] = {}
    for node in nodes:
        pairs = [("self", node.name)] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            name = node.arg if isinstance(node, ast.arg) else last_word(node.target)
            pairs = [(name, last_word(node.annotation))]
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            both = (target.elts, value.elts) if is_pair(node) else ([target], [value])
            pairs = [(last_word(a), last_word(b)) for a, b in zip(*both, strict=True)]
        for name, owner in pairs:
            owners.setdefault(name, {name}).add(owner)
    return {
        (owner, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        for owner in owners.get(last_word(node.value), {last_word(node.value)})
    }


def is_pair(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def unread(config: RunConfig) -> set[str]:
    """Return the keys that no module reads from their section.

    The module that refuses them does not count. What goes to a strategy as its
    arguments is not looked for.
    """
    package = ROOT / "fairfal_flwr"
    read = {
        pair
        for path in set(package.rglob("*.py")) - {package / "config/taken.py"}
        for pair in reads(ast.parse(path.read_text(encoding="utf-8")))
    }
    arguments = {f"federation.{k}" for a in AGGREGATIONS.values() for k in a.takes}
    missing = set()
    for key in config.to_flat().keys() - arguments:
        section, _, name = key.replace("-", "_").rpartition(".")
        owner = getattr(config, section) if section else config
        whose = {section or "config", *(kind.__name__ for kind in type(owner).__mro__)}
        is_option = section.replace("_", "-") in OPTIONS
        if not is_option and not {(one, name) for one in whose} & read:
            missing.add(key)
    return missing


def test_every_key_is_read_somewhere():
    """A knob that nothing reads is a lie."""
    assert unread(RunConfig()) == set()


def test_a_key_that_is_not_read_is_found():
    class Train(TrainConfig):
        patience: int = 3  # the name of another section's key

    class Wrong(RunConfig):
        colour: str = "red"
        train: Train = Train()

    assert unread(Wrong()) == {"colour", "train.patience"}


@pytest.mark.parametrize(
    ("code", "pair"),
    [
        ("def f(c): return c.train.lr", ("train", "lr")),
        ("def f(c): s, t = c.seed, c.train; return t.lr", ("train", "lr")),
        ("def f(x: TrainConfig): return x.lr", ("TrainConfig", "lr")),
        ("class A:\n  x: TrainConfig\n  def f(self): self.x.lr", ("TrainConfig", "lr")),
    ],
)
def test_a_read_is_seen(code, pair):
    assert pair in reads(ast.parse(code))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_keys_of_a_strategy_are_the_options_of_its_function(name):
    options = {option.name for option in section_options(name)}
    section = getattr(RunConfig(), name.replace("-", "_"), None)
    assert options == (set(type(section).model_fields) if section else set())
