"""The presets of the paper: the same protocol, and one file for every row."""

import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict

from fairfal_flwr.config import RunConfig

FOLDER = Path(__file__).parents[2] / "configs" / "paper"
RHO = {
    **{"fmnist": 20.0, "cifar10": 20.0, "cifar100": 20.0},
    **{"octmnist": 1.0, "dermamnist": 1.0},
}
NAMES = {name: name for name in RHO} | {"fmnist": "fashion-mnist"}
ABLATIONS = sorted((FOLDER / "ablations").glob("*.toml"))


def keys(*paths: Path) -> dict:
    values: dict = {}
    for path in paths:
        values |= flatten_dict(tomllib.loads(path.read_text()))
    return values


@pytest.mark.parametrize("alpha", ["0.1", "100"])
@pytest.mark.parametrize("short", RHO)
def test_a_preset_differs_from_the_others_by_its_data_alone(short, alpha):
    config = RunConfig.from_flat(keys(FOLDER / f"{short}-a{alpha}.toml"))
    data = config.data
    assert (data.name, data.imbalance_ratio) == (NAMES[short], RHO[short])
    assert (data.alpha, data.partition_seed) == (float(alpha), 0)
    reference = RunConfig.from_flat(keys(FOLDER / "fmnist-a0.1.toml"))
    assert config.model_copy(update={"data": reference.data}) == reference


def test_the_protocol_is_the_paper_s():
    config = RunConfig.from_flat(keys(FOLDER / "cifar10-a0.1.toml"))
    campaign, train = config.campaign, config.train
    assert config.num_clients == 10
    assert (campaign.num_cycles, campaign.num_rounds, campaign.budget) == (9, 100, 0.05)
    assert (train.epochs, train.batch_size, train.lr) == (5, 64, 0.01)
    assert train.horizontal_flip
    assert (config.query.strategy, config.fairfal.candidate_factor) == ("fairfal", 4.0)
    assert (config.data.partitioner, config.data.long_tail) == (
        "balanced-dirichlet",
        "exp",
    )


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_a_preset_in_its_own_keys_alone(path):
    base = RunConfig.from_flat(keys(FOLDER / "cifar10-a100.toml"))
    config = RunConfig.from_flat(keys(FOLDER / "cifar10-a100.toml", path))
    before, after = base.to_flat(), config.to_flat()
    changed = {key for key in before if before[key] != after[key]}
    assert changed
    assert changed <= keys(path).keys()
    assert f"ablations/{path.name}" in path.read_text()


def test_the_rows_of_the_ablation_table_are_there():
    names = {path.stem for path in ABLATIONS}
    assert {"adaptive-only", "prototypes-local", "prototypes-global"} <= names
    assert {"kappa-2", "kappa-3", "kappa-5", "fedprox", "scaffold"} <= names
    assert {f"delta-{delta}" for delta in ("0.65", "0.70", "0.80", "0.85")} <= names
