"""Every strategy by one key: arguments, refusals, runs, determinism, documentation."""

import inspect

import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as flower
from grid import run_campaign, same_weights, small, strategy_of

from fairfal_flwr.config import FederationConfig, RunConfig
from fairfal_flwr.config.federation import AGGREGATIONS
from fairfal_flwr.errors import UserError

# Flower's arguments that are no keys: who takes part, record keys, callables.
OURS = {
    *("fraction_train", "fraction_evaluate", "min_train_nodes", "min_evaluate_nodes"),
    *("min_available_nodes", "weighted_by_key", "arrayrecord_key", "configrecord_key"),
    *("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn", "selection_rule"),
    *("train_loss_key", "eta_l", "num_clients", "client_of", "buffers", "keywords"),
}
FLOWERS = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedprox": flower.FedProx,
    "fedadam": flower.FedAdam,
    "fedadagrad": flower.FedAdagrad,
    "fedyogi": flower.FedYogi,
    "qfedavg": flower.QFedAvg,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
    "bulyan": flower.Bulyan,
}
# Where Flower's default makes the strategy FedAvg, or is another one per strategy.
OTHER_DEFAULTS = {
    ("fedavgm", "server_momentum"),
    ("fedprox", "proximal_mu"),
    ("fedyogi", "eta"),
    ("qfedavg", "client_learning_rate"),
}


def make(**changes):
    flat = {name.replace("__", ".").replace("_", "-"): v for name, v in changes.items()}
    return strategy_of(RunConfig.from_flat({"num-clients": 8} | flat))


def arguments(name):
    return [key.replace("-", "_") for key in AGGREGATIONS[name].takes]


def test_the_table_names_flowers_classes():
    assert AGGREGATIONS.keys() == FLOWERS.keys() | {"scaffold"}
    for name, theirs in FLOWERS.items():
        assert AGGREGATIONS[name].flower == theirs.__name__


@pytest.mark.parametrize("name", FLOWERS)
def test_the_keys_are_the_arguments_of_flowers_class(name):
    """Exactly its own arguments, with its defaults where those make sense."""
    signature = inspect.signature(FLOWERS[name]).parameters
    assert set(arguments(name)) == set(signature) - OURS
    for argument in arguments(name):
        ours = FederationConfig.model_fields[argument].default
        agrees = signature[argument].default == ours
        assert agrees == ((name, argument) not in OTHER_DEFAULTS), argument


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_the_strategy_is_flowers_and_gets_the_arguments(name):
    strategy = make(federation__strategy=name)
    assert isinstance(strategy, FLOWERS.get(name, flower.FedAvg))
    for argument in arguments(name):
        wanted = FederationConfig.model_fields[argument].default
        if argument == "client_learning_rate":
            wanted = RunConfig().train.lr
        assert getattr(strategy, argument) == wanted
    assert vars(strategy).keys() >= set(AGGREGATIONS[name].remembers)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy": "krum", "num-malicious-nodes": 3}, "krum, which needs 9 clients"),
        ({"strategy": "bulyan", "num-malicious-nodes": 2}, "bulyan, which needs 11"),
        ({"strategy": "bulyan", "fraction-train": 0.25}, "needs 3 .* found 2 of 8"),
        (
            {
                "strategy": "multikrum",
                "num-malicious-nodes": 1,
                "num-nodes-to-select": 8,
            },
            "`federation.num-nodes-to-select` is 8; allowed: 1 to 7",
        ),
    ],
)
def test_too_few_clients_are_refused_before_any_is_bothered(changes, line):
    flat = {f"federation.{key}": value for key, value in changes.items()}
    with pytest.raises(UserError, match=line) as error:
        strategy_of(RunConfig.from_flat({"num-clients": 8} | flat))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_each_strategy_runs_by_one_key_and_repeats_bit_by_bit(tmp_path, name):
    chosen = {"federation.strategy": name, "campaign.num-cycles": 1}
    first, grid = run_campaign(small(tmp_path, "a", **chosen))
    assert len(first.recorder.cycles) == 1
    for weight in first.state.weights.values():
        assert torch.isfinite(weight).all()
        assert weight.dtype in (torch.float32, torch.int64)
    variances = [w for n, w in first.state.weights.items() if n.endswith("running_var")]
    assert variances
    assert all((v >= 0).all() for v in variances)
    assert not any(message.has_error() for message in grid.replies)
    second, _ = run_campaign(small(tmp_path, "b", **chosen))
    assert same_weights(first, second)


@pytest.mark.slow
def test_fedprox_without_a_weight_is_fedavg_bit_by_bit(tmp_path):
    fedprox = {"federation.strategy": "fedprox", "federation.proximal-mu": 0.0}
    first, _ = run_campaign(small(tmp_path, "a", **fedprox))
    second, _ = run_campaign(small(tmp_path, "b"))
    assert same_weights(first, second)
    heavy = fedprox | {"federation.proximal-mu": 1.0}
    third, _ = run_campaign(small(tmp_path, "c", **heavy))
    assert not same_weights(second, third)


def test_integers_do_not_travel_and_stay(tmp_path):
    campaign, grid = run_campaign(small(tmp_path, "a"))
    for message in grid.requests + grid.replies:
        for record in message.content.array_records.values():
            assert all(np.dtype(a.dtype).kind == "f" for a in record.values())
    counts = [
        w
        for n, w in campaign.state.weights.items()
        if n.endswith("num_batches_tracked")
    ]
    assert [int(count) for count in counts] == [0] * 4


@pytest.mark.parametrize(
    "name",
    [
        "fedadam",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("fedavgm", "fedyogi")),
        pytest.param("qfedavg", marks=pytest.mark.slow),
    ],
)
def test_server_optimizers_average_batchnorms_buffers(tmp_path, name):
    """After one round the buffers are FedAvg's; the parameters are not."""
    short = {"campaign.num-cycles": 1, "campaign.num-rounds": 1}
    key = {"federation.strategy": name}
    if name == "fedavgm":  # its first step is FedAvg's, but for the learning rate
        key["federation.server-learning-rate"] = 0.5
    ours, _ = run_campaign(small(tmp_path, "a", **short, **key))
    theirs, _ = run_campaign(small(tmp_path, "b", **short))
    expected = theirs.state.weights
    equal = {n: torch.equal(w, expected[n]) for n, w in ours.state.weights.items()}
    assert {n for n, e in equal.items() if e} >= {n for n in equal if "running" in n}
    assert not any(e for n, e in equal.items() if n.endswith("weight"))


def test_few_clients_take_part_by_fraction(tmp_path):
    chosen = {"num-clients": 4, "federation.fraction-train": 0.5}
    campaign, grid = run_campaign(small(tmp_path, "a", **chosen))
    trains = [m for m in grid.requests if m.metadata.message_type == "train"]
    assert len(trains) == 2 * 4
    assert len(campaign.recorder.cycles) == 2
