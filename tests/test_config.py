"""The run config: one place, one line for every mistake."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict

from fairfal_flwr.config import RunConfig, reference
from fairfal_flwr.errors import UserError

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "configs").rglob("*.toml"))


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
            "`query.strategy` is 'farfal'; allowed: .*fairfal",
        ),
        ("train.horizontal-flip", 1, "allowed: true or false"),
        ("train.learning-rate", 0.1, "unknown key `train.learning-rate`"),
        (
            "train.ephochs",
            1,
            "unknown key `train.ephochs` \\(did you mean `train.epochs`\\?\\)",
        ),
        ("nonsense.key", 1, "unknown key `nonsense`"),
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


def test_configuration_page_is_the_printed_reference():
    assert (ROOT / "docs" / "configuration.md").read_text() == reference()


def test_reference_names_every_key():
    assert all(f"| `{key}` |" in reference() for key in RunConfig().to_flat())


def test_every_key_is_read_somewhere():
    """A knob that nothing reads is a lie; its name must occur outside config.py."""
    package = ROOT / "fairfal_flwr"
    code = "\n".join(
        path.read_text() for path in package.rglob("*.py") if path.name != "config.py"
    )
    names = {key.rpartition(".")[2].replace("-", "_") for key in RunConfig().to_flat()}
    assert {name for name in names if name not in code} == set()


@pytest.mark.slow
def test_the_module_prints_the_reference():
    command = [sys.executable, "-m", "fairfal_flwr.config"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout == reference()
