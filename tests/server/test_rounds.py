"""Rounds with missing clients: quorum, repetition, and an orderly stop."""

import csv
import json

import pytest
import torch
from grid import InProcessGrid, run_campaign, same_weights, small
from safetensors import safe_open

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import FederationConfig, RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import TrainRequest
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.checkpoint import read_checkpoint
from fairfal_flwr.server.strategies import quorum


class Flaky:
    """A ClientApp that crashes when a rule says so, and counts what it is asked."""

    def __init__(self, fails):
        self.fails = fails
        self.asked = {}

    def __call__(self, message, context):
        if message.metadata.message_type == "train":
            request = TrainRequest.from_content(message.content)
            client = context.node_config["partition-id"]
            key = request.cycle, request.round, client
            self.asked[key] = self.asked.get(key, 0) + 1
            if self.fails(*key, self.asked[key]):
                raise RuntimeError("no power")
        return app(message, context)


def campaign_of(tmp_path, name, client, **changes):
    overrides = small(tmp_path, name, **changes)
    find_participant.cache_clear()
    grid = InProcessGrid(overrides, 3, client)
    return Campaign(RunConfig.from_flat(overrides), grid)


def run_with(tmp_path, name, fails, **changes):
    client = Flaky(fails)
    campaign = campaign_of(tmp_path, name, client, **changes)
    campaign.run()
    return campaign, client


def rounds_of(campaign):
    return list(csv.DictReader((campaign.recorder.folder / "rounds.csv").open()))


@pytest.mark.parametrize(
    ("fraction", "asked", "needed"),
    [(0.5, 5, 3), (0.5, 4, 2), (1.0, 5, 5), (0.01, 5, 1), (0.6, 5, 3)],
)
def test_quorum_rounds_up(fraction, asked, needed):
    assert quorum(FederationConfig(quorum=fraction), asked) == needed


@pytest.mark.parametrize(("strategy", "needed"), [("krum", 5), ("bulyan", 7)])
def test_robust_strategies_need_more(strategy, needed):
    config = FederationConfig(strategy=strategy, num_malicious_nodes=1, quorum=0.1)
    assert quorum(config, 8) == needed


def test_a_round_at_the_quorum_goes_on_and_asks_nobody_twice(tmp_path):
    campaign, client = run_with(
        tmp_path, "a", lambda cycle, round_, k, _: (cycle, round_, k) == (1, 2, 1)
    )
    assert [row["clients"] for row in rounds_of(campaign)] == ["3", "2", "3", "3"]
    assert set(client.asked.values()) == {1}


def test_below_the_quorum_only_the_missing_are_asked_again(tmp_path):
    """Two of three crash once and come back: the run is the undisturbed one."""
    campaign, client = run_with(
        tmp_path,
        "a",
        lambda cycle, round_, k, times: (cycle, round_) == (1, 2) and k and times == 1,
    )
    assert [client.asked[1, 2, k] for k in range(3)] == [1, 2, 2]
    assert {row["clients"] for row in rounds_of(campaign)} == {"3"}
    calm, _ = run_with(tmp_path, "b", lambda *_: False)
    assert same_weights(campaign, calm)


@pytest.mark.parametrize(
    "strategy", ["scaffold", pytest.param("fedadam", marks=pytest.mark.slow)]
)
def test_strategies_with_a_memory_survive_a_repetition(tmp_path, strategy):
    chosen = {"federation.strategy": strategy, "campaign.num-cycles": 1}

    def fails(_cycle, round_, _client, times):
        return round_ == 2 and times == 1

    disturbed, _ = run_with(tmp_path, "a", fails, **chosen)
    calm, _ = run_with(tmp_path, "b", lambda *_: False, **chosen)
    assert same_weights(disturbed, calm)


def test_a_client_that_stays_away_is_left_out_and_may_come_back(tmp_path):
    campaign, _ = run_with(
        tmp_path,
        "a",
        lambda cycle, _round, k, _: cycle == 1 and k == 2,
        **{"federation.quorum": 0.6, "federation.round-retries": 0},
    )
    clients = [row["clients"] for row in rounds_of(campaign)]
    assert clients == ["2", "2", "3", "3"]


def test_without_a_quorum_the_run_stops_and_keeps_what_is_done(tmp_path):
    client = Flaky(lambda cycle, round_, k, _: (cycle, round_) == (2, 2) and k)
    campaign = campaign_of(
        tmp_path,
        "a",
        client,
        **{"federation.round-retries": 1, "campaign.checkpoint-seconds": 0},
    )
    with pytest.raises(UserError) as error:
        campaign.run()
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("Cycle 2, round 2: 1 of 3 clients answered well")
    assert "`federation.quorum` = 0.5 with fedavg needs 2" in line
    assert "after 1 repetitions (`federation.round-retries`)" in line
    assert "; clients 1-2: " in line
    assert line.count("no power") == 1
    assert [client.asked[2, 2, k] for k in range(3)] == [1, 2, 2]
    folder = campaign.recorder.folder
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"] is False
    assert [row["cycle"] for row in summary["cycles"]] == [1]
    saved = read_checkpoint(folder).state
    assert saved.moment == (2, 1)
    assert all(
        torch.equal(saved.weights[n], w) for n, w in campaign.state.weights.items()
    )
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"cycle": "1"}
    last = read_run(folder).events[-1]
    assert (last.kind, last.facts) == (EventKind.FAILED, {"reason": line})


def test_a_stop_before_the_first_aggregate_of_a_cycle_keeps_the_last_cycles(tmp_path):
    """The fresh initialization of cycle 2 is no result."""
    client = Flaky(lambda cycle, *_: cycle == 2)
    campaign = campaign_of(tmp_path, "a", client, **{"federation.round-retries": 0})
    with pytest.raises(UserError, match="0 of 3 clients"):
        campaign.run()
    path = campaign.recorder.folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"cycle": "1"}


def test_a_stop_in_the_first_round_still_leaves_a_summary(tmp_path):
    campaign = campaign_of(
        tmp_path, "a", Flaky(lambda *_: True), **{"federation.round-retries": 0}
    )
    with pytest.raises(UserError):
        campaign.run()
    folder = campaign.recorder.folder
    assert json.loads((folder / "summary.json").read_text())["cycles"] == []
    assert not (folder / "model.safetensors").exists()


def test_diverging_clients_are_named(tmp_path):
    """After one step their weights are absurd, after three they are no numbers."""
    changes = {"train.lr": 1e30, "federation.round-retries": 0}
    campaign = campaign_of(tmp_path, "a", app, **changes)
    with pytest.raises(UserError, match=r"The aggregate of fedavg moved \S+ times its"):
        campaign.run()
    assert not (campaign.recorder.folder / "model.safetensors").exists()
    campaign = campaign_of(tmp_path, "b", app, **changes | {"train.epochs": 3})
    with pytest.raises(
        UserError, match=r"clients? [\d-]+: its \S+ (holds NaN|is (nan|inf))"
    ):
        campaign.run()


def test_an_aggregate_that_explodes_stops_the_run(tmp_path):
    """Also in the only round: no client is left to say that it was sent nonsense."""
    changes = {
        "campaign.num-cycles": 1,
        "campaign.num-rounds": 1,
        "federation.strategy": "fedadam",
        "federation.eta": 1e40,  # infinite in single precision
    }
    campaign = campaign_of(tmp_path, "a", app, **changes)
    with pytest.raises(UserError, match="The aggregate of fedadam holds NaN or Inf in"):
        campaign.run()


def test_evaluation_on_clients_pools_their_test_shards(tmp_path):
    """All shards together are the whole test set, so the recalls are the server's."""
    campaign, _ = run_campaign(
        small(tmp_path, "a", **{"federation.fraction-evaluate": 1.0})
    )
    last = rounds_of(campaign)[-1]
    cycle = campaign.recorder.cycles[-1]
    assert float(last["client-accuracy"]) == pytest.approx(cycle.accuracy)
    recalls = [float(text) for text in last["client-recalls"].split()]
    assert recalls == pytest.approx(cycle.recalls)


def test_no_counts_travel_unless_evaluation_on_clients_is_asked_for(tmp_path):
    campaign, grid = run_campaign(small(tmp_path, "a"))
    assert not any(m.metadata.message_type == "evaluate" for m in grid.requests)
    assert {row["client-recalls"] for row in rounds_of(campaign)} == {""}
    assert all("class-counts" not in r.content["metrics"] for r in grid.replies)
