"""Strategies and mechanisms by one key, under real Flower."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from superlink import COMPLETED, local_superlink, run_app
from torch import equal

ROOT = Path(__file__).parents[2]
SHORT = {
    "num-clients": 3,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 2,
    "train.epochs": 1,
    "query.strategy": "random",
    "federation.fraction-evaluate": 1.0,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def superlink():
    with local_superlink() as link:
        yield link


def run(superlink, folder, strategy, actors=1):
    places = {"output-dir": str(folder / "runs"), "state-dir": str(folder / "state")}
    lines = []
    record = run_app(
        superlink,
        ROOT,
        SHORT | places | {"federation.strategy": strategy},
        num_supernodes=3,
        actors=actors,
        echo=lines.append,
    )
    assert record["status"] == COMPLETED, "\n".join(lines)
    return next((folder / "runs").iterdir())


@pytest.mark.parametrize("name", ["fedprox", "fedadam"])
def test_one_key_changes_the_federation(superlink, tmp_path, name):
    results = run(superlink, tmp_path, name)
    summary = json.loads((results / "summary.json").read_text())
    assert summary["finished"]
    assert summary["federation"] == name


def test_scaffold_is_the_same_with_one_actor_or_two(superlink, tmp_path):
    """Actors are shared by clients, so a variate kept in memory would show here."""
    one = run(superlink, tmp_path / "one", "scaffold")
    two = run(superlink, tmp_path / "two", "scaffold", actors=2)
    first, second = (load_file(path / "model.safetensors") for path in (one, two))
    assert all(equal(weight, second[name]) for name, weight in first.items())
