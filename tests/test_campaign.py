"""Whole campaigns through an in-process Grid: real messages, real SQLite."""

import csv
import gc
import json
import tomllib
from collections import Counter
from functools import partial
from types import FunctionType, MethodType, ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.common.config import flatten_dict
from grid import InProcessGrid, run_campaign, same_weights
from safetensors.torch import load_file

from client_app import app
from fairfal_flwr.client import querying
from fairfal_flwr.client.annotators import Oracle
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.node import client_index
from fairfal_flwr.client.participant import Participant, find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_shard
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import SelectRequest, StatusRequest
from fairfal_flwr.query import select
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign

SMALL = {
    "num-clients": 3,
    "campaign.num-cycles": 3,
    "campaign.num-rounds": 2,
    "campaign.evaluate-every": 2,
    "train.epochs": 1,
    "local.max-epochs": 3,
}

# All that may ever leave a client: weights, counts, losses, the imbalance, timings,
# one bit about the choice of the model, which client it is, and how many entries its
# ledger has with the start of their digest.
ALLOWED_REPLY_KEYS = {
    "query.status": {
        "client",
        "on-gpu",
        "num-samples",
        "num-labeled",
        "num-open",
        "num-set-aside",
        "ledger",
    },
    "query.imbalance": {"imbalance", "seconds"},
    "query.select": {
        "budget",
        "num-selected",
        "num-labeled",
        "num-unlabeled",
        "num-open",
        "num-set-aside",
        "asked-seconds",
        "global-query",
        "ledger",
        "local-training-seconds",
        "outputs-seconds",
        "selection-seconds",
    },
    "train": {"num-examples", "loss", "seconds"},
    "evaluate": {"num-examples", "loss", "accuracy", "class-counts", "class-hits"},
}


@pytest.fixture
def small(tmp_path):
    return SMALL | {
        "output-dir": str(tmp_path / "runs"),
        "state-dir": str(tmp_path / "state"),
    }


def ledgers(campaign):
    config, name = campaign.config, campaign.recorder.name
    return [
        find_participant(config, client, name).ledger
        for client in range(config.num_clients)
    ]


def selections(campaign):
    cycles = range(1, campaign.config.campaign.num_cycles + 1)
    return [[book.selection(c).tolist() for c in cycles] for book in ledgers(campaign)]


def test_a_campaign_labels_its_budget_and_leaves_its_files(small):
    campaign, _ = run_campaign(small, draws=True)
    folder = campaign.recorder.folder
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    budgets = [len(p) for p in selections(campaign)[0]]
    assert len(set(budgets)) == 1
    assert [row["labels"] for row in summary["cycles"]] == [
        sum(len(ids) for book in selections(campaign) for ids in book[:cycle])
        for cycle in (1, 2, 3)
    ]
    rounds = list(csv.DictReader((folder / "rounds.csv").open()))
    assert [(r["cycle"], r["round"]) for r in rounds] == [
        (str(cycle), str(round_)) for cycle in (1, 2, 3) for round_ in (1, 2)
    ]
    assert [bool(r["accuracy"]) for r in rounds] == [False, True] * 3
    queries = list(csv.DictReader((folder / "queries.csv").open()))
    assert Counter(q["strategy"] for q in queries) == {"random": 3, "fairfal": 6}
    assert [bool(q["imbalance"]) for q in queries] == [False] * 3 + [True] * 3 + [
        False
    ] * 3
    config = flatten_dict(tomllib.loads((folder / "config.toml").read_text()))
    assert RunConfig.from_flat(config) == campaign.config
    assert (folder / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[key], campaign.state.weights[key]) for key in saved)
    assert not list(folder.glob(".*"))


def test_a_run_tells_what_it_does_while_it_does_it(small):
    campaign, _ = run_campaign(small | {"campaign.num-cycles": 2})
    run = read_run(campaign.recorder.folder)
    assert RunConfig.from_flat(run.config) == campaign.config
    assert run.summary == campaign.recorder.summary
    asked = ["exchanged"]
    training = ["round-started", *asked, "round-finished"] * 2
    training += ["evaluated", "cycle-finished"]  # after the second round
    assert [event.kind for event in run.events] == [
        *("run-started", *asked, "clients-met"),
        *("query-started", *asked, "query-finished", *training),
        *(
            "query-started",
            *asked,
            *asked,
            "query-finished",
            *training,
        ),  # imbalance first
        "finished",
    ]
    queries = [event.facts for event in run.events if event.kind == "query-started"]
    own = {"cycle": 2, "strategy": campaign.config.query.strategy}
    assert queries == [{"cycle": 1, "strategy": "random"}, own]
    exchanges = [event.facts for event in run.events if event.kind == "exchanged"]
    assert exchanges[0]["asked"] == []  # who is who is the answer
    assert all(e["asked"] == e["answered"] == [0, 1, 2] for e in exchanges[1:])
    sizes = {e["message"]: (e["bytes_sent"], e["bytes_received"]) for e in exchanges}
    assert sizes["query.status"] == (0, 0)
    assert sizes["train"][0] == sizes["train"][1] > 0
    assert sizes["query.imbalance"] == (sizes["train"][0], 0)
    rounds = [event.facts for event in run.events if event.kind == "round-finished"]
    assert [(r["cycle"], r["round"], r["loss"]) for r in rounds] == [
        (row.cycle, row.round, row.loss) for row in run.rounds
    ]
    times = [event.time for event in run.events]
    assert times == sorted(times)


def test_only_what_is_allowed_leaves_a_client(small):
    _, grid = run_campaign(small | {"federation.fraction-evaluate": 1.0})
    kinds = Counter(reply.metadata.message_type for reply in grid.replies)
    assert kinds.keys() == ALLOWED_REPLY_KEYS.keys()
    for reply in grid.replies:
        kind = reply.metadata.message_type
        arrays = {
            key: record
            for key, record in reply.content.items()
            if isinstance(record, ArrayRecord)
        }
        scalars = reply.content["metrics"]
        assert set(reply.content) == {"metrics", *arrays}
        assert set(scalars) <= ALLOWED_REPLY_KEYS[kind]
        lists = {name for name, value in scalars.items() if isinstance(value, list)}
        assert lists <= {"class-counts", "class-hits", "ledger"}
        assert set(arrays) == ({"arrays"} if kind == "train" else set())
        for record in arrays.values():
            sent = next(r for r in grid.requests if r.metadata.message_type == "train")
            shapes = {key: array.shape for key, array in record.items()}
            assert shapes == {k: a.shape for k, a in sent.content["arrays"].items()}


def reachable(root, *, stop=(type, ModuleType)):
    """Return every object that a chain of references leads to.

    Of a function its closure and its defaults are followed, not what its module holds.
    """
    found, waiting = {}, [root]
    while waiting:
        item = waiting.pop()
        if id(item) in found or isinstance(item, stop):
            continue
        found[id(item)] = item
        if isinstance(item, FunctionType):
            waiting += [item.__closure__, item.__defaults__, item.__kwdefaults__]
            continue
        waiting += gc.get_referents(item)
        if isinstance(item, MethodType):
            waiting.append(item.__self__)
    return found.values()


def test_the_search_for_the_oracle_looks_everywhere():
    oracle = Oracle(np.arange(3), np.array([0, 1, 2]))

    def closure():
        return oracle

    def default(answerer=oracle, *, other=None):
        return answerer

    holders = [
        closure,
        default,
        lambda: closure,
        partial(print, oracle),
        oracle.answer,
        {"a": [oracle]},
        SimpleNamespace(inner=SimpleNamespace(f=closure)),
    ]
    for holder in holders:
        assert any(item is oracle for item in reachable(holder)), holder
    assert not any(item is oracle for item in reachable(lambda: 3))


def test_a_strategy_cannot_reach_the_labels_of_the_pool(small, monkeypatch):
    """No chain of references leads from a strategy's context to the oracle."""
    seen = []

    def spy(name, context, budget, **options):
        seen.append(context)
        return select(name, context, budget, **options)

    monkeypatch.setattr(querying, "select", spy)
    campaign, _ = run_campaign(small | {"campaign.num-cycles": 2})
    owner = find_participant(campaign.config, 0, campaign.recorder.name)
    assert any(isinstance(item, Oracle) for item in reachable(owner))
    assert len(seen) == 6
    config = campaign.config
    _, labels = load_shard(config.image_spec(), config.partition_spec(), 0)
    for context in seen:
        items = list(reachable(context))
        tensors = [item for item in items if isinstance(item, torch.Tensor)]
        arrays = [item for item in items if isinstance(item, np.ndarray)]
        arrays += [tensor.detach().numpy() for tensor in tensors]
        assert not any(np.array_equal(array, labels) for array in arrays)
        assert any(item is context.labels for item in items)
        assert not any(
            isinstance(item, Oracle | Participant | Ledger) for item in items
        )


@pytest.mark.parametrize(
    "strategy", ["fairfal", pytest.param("random", marks=pytest.mark.slow)]
)
def test_the_same_seed_gives_the_same_run_bit_by_bit(small, tmp_path, strategy):
    chosen = RunConfig.keep_taken(
        small | {"query.strategy": strategy, "campaign.num-cycles": 2}
    )
    first, _ = run_campaign(chosen)
    asked = selections(first)
    second, _ = run_campaign(chosen | {"state-dir": str(tmp_path / "other")})
    assert selections(second) == asked
    assert same_weights(first, second)
    third, _ = run_campaign(chosen | {"seed": 1})
    assert selections(third) != asked
    assert not same_weights(first, third)


def test_the_mean_imbalance_is_measured_once_and_kept(small):
    campaign, grid = run_campaign(small)
    kinds = Counter(message.metadata.message_type for message in grid.requests)
    assert kinds["query.imbalance"] == 3
    sent = [
        SelectRequest.from_content(m.content).global_imbalance
        for m in grid.requests
        if m.metadata.message_type == "query.select"
    ]
    assert sent == [None] * 3 + [campaign.state.mean_imbalance] * 6
    gammas = [
        r.content["metrics"]["imbalance"]
        for r in grid.replies
        if r.metadata.message_type == "query.imbalance"
    ]
    assert campaign.state.mean_imbalance == pytest.approx(sum(gammas) / 3)


def test_random_sends_no_weights_to_query(small):
    _, grid = run_campaign(RunConfig.keep_taken(small | {"query.strategy": "random"}))
    selects = [m for m in grid.requests if m.metadata.message_type == "query.select"]
    assert all("arrays" not in message.content for message in selects)


def test_a_repeated_request_gets_the_same_selection_and_asks_nothing_twice(small):
    config = RunConfig.from_flat(small)
    participant = Participant(config, 0, "repeat")
    request = SelectRequest(campaign="repeat", cycle=1, strategy="random")
    first = participant.select(request)
    asked = participant.ledger.selection(1).tolist()
    again = Participant(config, 0, "repeat").select(request)
    assert participant.ledger.selection(1).tolist() == asked
    assert again.num_labeled == first.num_labeled == len(asked)
    assert participant.ledger.requested().tolist() == sorted(asked)


def test_a_crash_between_asking_and_answering_loses_nothing(small, monkeypatch):
    config = RunConfig.from_flat(small)
    participant = Participant(config, 0, "crash")
    request = SelectRequest(campaign="crash", cycle=1, strategy="random")
    monkeypatch.setattr(
        participant.annotator, "answer", lambda _: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):  # noqa: PT011
        participant.select(request)
    asked = Ledger(participant.ledger.path, participant.shard.identity).selection(1)
    back = Participant(config, 0, "crash")
    back.select(request)
    sample_ids, labels = back.ledger.labeled(1)
    assert sample_ids.tolist() == sorted(asked.tolist())
    assert len(labels) == len(asked)


def test_a_budget_beyond_the_pool_labels_what_is_left_and_ends(small):
    campaign, _ = run_campaign(
        small | {"campaign.budget": 0.4, "campaign.num-cycles": 30}
    )
    assert campaign.state.cycle == len(campaign.recorder.cycles) == 3
    assert read_run(campaign.recorder.folder).summary.finished
    assert campaign.state.num_labels == campaign.state.num_samples
    queries = list(csv.DictReader((campaign.recorder.folder / "queries.csv").open()))
    last = [q for q in queries if q["cycle"] == "3"]
    assert all(int(q["num-selected"]) < int(q["budget"]) for q in last)
    assert all(q["num-unlabeled"] == "0" for q in last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extreme",
    [
        {"num-clients": 1},
        {"data.alpha": 0.001},
        {"data.alpha": 1e6},
        {"data.imbalance-ratio": 1000.0},  # some class has no training image at all
        {"campaign.budget": 1e-6},  # one label a cycle
        {"campaign.reset": "continue"},
        {"query.strategy": "random", "federation.fraction-train": 0.4},
    ],
    ids=str,
)
def test_extremes_run_through(small, extreme):
    campaign, _ = run_campaign(RunConfig.keep_taken(small | extreme))
    assert len(campaign.recorder.cycles) == 3
    assert all(torch.isfinite(w).all() for w in campaign.state.weights.values())


@pytest.mark.gpu
def test_a_campaign_runs_on_cuda_and_keeps_the_shard_there(small):
    campaign, _ = run_campaign(small | {"device": "cuda"})
    owner = find_participant(campaign.config, 0, campaign.recorder.name)
    assert owner.shard.images.is_cuda
    assert owner.pool.as_of(1).pool.is_cuda
    assert len(campaign.recorder.cycles) == 3


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ({"num-clients": 2000}, "`num-clients`"),
        ({"data.name": "fashion-mnist", "data-dir": "/no/such/folder"}, "data-dir"),
        ({"output-dir": "/dev/null/runs"}, "`output-dir`"),
        ({"device": "cuda"}, "`device` is 'cuda'"),
    ],
)
def test_a_mistake_stops_the_run_with_one_line(small, mistake, line):
    if mistake.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=line) as error:
        run_campaign(small | mistake, num_nodes=mistake.get("num-clients"))
    assert "\n" not in str(error.value)


def test_a_client_that_cannot_write_its_ledger_is_named(small):
    with pytest.raises(UserError, match=r"SuperNode \d+: Cannot use the label ledger"):
        run_campaign(small | {"state-dir": "/dev/null/state"})


@pytest.mark.parametrize("nodes", [0, 2, 4])
def test_another_number_of_nodes_is_refused_with_the_command_to_run(small, nodes):
    hasty = small | {"federation.connect-timeout": 0.0}
    with pytest.raises(UserError, match=f"{nodes} SuperNodes are connected") as error:
        run_campaign(hasty, num_nodes=nodes)
    command = 'flwr run . --federation-config "num-supernodes=3 client-resources'
    assert command in str(error.value)


def test_two_nodes_with_one_identity_are_refused(small):
    grid = InProcessGrid(small, 3)
    for context in grid.contexts.values():
        context.node_config["partition-id"] = 1
    with pytest.raises(UserError, match="same client"):
        Campaign(RunConfig.from_flat(small), grid).run()


def test_a_round_goes_on_without_a_client_that_crashes(small):
    def crashing(message, context):
        is_train = message.metadata.message_type == "train"
        if is_train and context.node_config["partition-id"] == 1:
            raise RuntimeError("no power")
        return app(message, context)

    find_participant.cache_clear()
    grid = InProcessGrid(small, 3, crashing)
    campaign = Campaign(RunConfig.from_flat(small), grid)
    campaign.run()
    rounds = list(csv.DictReader((campaign.recorder.folder / "rounds.csv").open()))
    assert {row["clients"] for row in rounds} == {"2"}


def test_status_counts_the_labels_of_an_earlier_life(small):
    config = RunConfig.from_flat(small)
    Participant(config, 2, "life").select(
        SelectRequest(campaign="life", cycle=1, strategy="random")
    )
    status = Participant(config, 2, "life").status(StatusRequest(campaign="life"))
    assert status.client == 2
    assert status.num_labeled > 0


@pytest.mark.parametrize(
    ("node_config", "line"),
    [
        ({}, "no num-partitions and no partition-id"),
        ({"partition-id": 0}, "no num-partitions"),
        ({"partition-id": 3, "num-partitions": 3}, "partition 3 of 3"),
        ({"partition-id": 0, "num-partitions": 2}, "`num-clients` is 3"),
    ],
)
def test_a_node_that_does_not_fit_the_run_gets_one_line(node_config, line):
    with pytest.raises(UserError, match=line):
        client_index(node_config, 3)
