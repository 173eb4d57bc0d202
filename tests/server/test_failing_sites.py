"""Sites that fail a query: asked again, then left out of the cycle and named."""

import csv
import random
from collections import defaultdict
from statistics import mean

import pytest
from grid import InProcessGrid, facts_of, same_weights, small

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign

FAST = {"campaign.num-rounds": 1, "federation.round-retries": 1}
FAIRFAL = {"query.strategy": "fairfal", "local.max-epochs": 1}


class Site:
    """A ClientApp that crashes, before or after its work, when a rule says so."""

    def __init__(self, fails, *, after=False):
        self.fails, self.after = fails, after
        self.asked = defaultdict(int)
        self.answered = defaultdict(set)

    def __call__(self, message, context):
        kind = message.metadata.message_type
        config = message.content["config"]
        client = context.node_config["partition-id"]
        key = kind, config.get("cycle", 0), config.get("round", 0)
        self.asked[*key, client] += 1
        does_fail = self.fails(*key, client, self.asked[*key, client])
        if does_fail and not self.after:
            raise RuntimeError("no power")
        reply = app(message, context)
        if does_fail:
            raise RuntimeError("no net")
        self.answered[key].add(client)
        return reply


def campaign_of(tmp_path, name, site, **keys):
    values = small(tmp_path, name, **FAST | keys)
    find_participant.cache_clear()
    config = RunConfig.from_flat(values)
    return Campaign(config, InProcessGrid(values, config.num_clients, site))


def rows_of(campaign, file):
    with (campaign.recorder.folder / file).open() as lines:
        return list(csv.DictReader(lines))


def left_out(campaign):
    facts = facts_of(campaign, EventKind.LEFT_OUT)
    return [(fact["what"], fact["clients"]) for fact in facts]


def test_a_site_that_fails_once_changes_nothing(tmp_path):
    """Whatever the request, and whether its work was done before it failed."""
    calm = campaign_of(tmp_path, "calm", Site(lambda *_: False), **FAIRFAL)
    calm.run()
    for after in (False, True):
        site = Site(lambda *key: key[-1] == 1 and key[0] != "train", after=after)
        disturbed = campaign_of(tmp_path, f"after {after}", site, **FAIRFAL)
        disturbed.run()
        assert same_weights(disturbed, calm)
        assert left_out(disturbed) == []
        assert {n for key, n in site.asked.items() if key[0] != "train"} == {2}


def fails_to_choose(cycle):
    return lambda kind, c, _round, client, _times: (
        (kind, c, client)
        == (
            "query.select",
            cycle,
            1,
        )
    )


def test_a_site_left_out_keeps_its_labels_and_is_there_in_the_next_cycle(
    tmp_path, caplog
):
    site = Site(fails_to_choose(2))
    campaign = campaign_of(tmp_path, "a", site, **{"campaign.num-cycles": 3})
    campaign.run()
    assert site.asked["query.select", 2, 0, 1] == 2
    assert left_out(campaign) == [("Cycle 2, query", [1])]
    rows = rows_of(campaign, "queries.csv")
    labels = {(r["cycle"], r["client"]): int(r["num-labeled"]) for r in rows}
    assert [int(r["num-selected"]) for r in rows] == [12] * 8
    assert ("2", "1") not in labels
    assert (labels["1", "1"], labels["3", "1"]) == (12, 24)  # no cycle is caught up
    assert [int(row["labels"]) for row in rows_of(campaign, "rounds.csv")] == [
        36,
        36 + 24,
        36 + 24 + 36,
    ]
    assert [row["clients"] for row in rows_of(campaign, "rounds.csv")] == ["3"] * 3


def test_a_site_whose_answer_is_lost_trains_with_the_labels_it_has(tmp_path):
    """More than the server knows of, but no more than if it had answered."""
    campaign = campaign_of(tmp_path, "a", Site(fails_to_choose(2), after=True))
    campaign.run()
    assert left_out(campaign) == [("Cycle 2, query", [1])]
    assert [row["clients"] for row in rows_of(campaign, "rounds.csv")] == ["3", "3"]
    assert campaign.state.labels == {0: 24, 1: 12, 2: 24}
    assert campaign.state.most_labels == {0: 24, 1: 24, 2: 24}
    reasons = facts_of(campaign, EventKind.REPLY_DROPPED)
    assert len(reasons) == 2  # the two that it failed itself


def test_a_site_that_misses_the_first_cycle_does_not_train_in_it(tmp_path):
    site = Site(fails_to_choose(1))
    campaign = campaign_of(tmp_path, "a", site)
    campaign.run()
    assert site.asked["train", 1, 1, 1] == 0
    assert site.asked["train", 2, 1, 1] == 1
    assert [row["labels"] for row in rows_of(campaign, "rounds.csv")] == ["24", "60"]


def test_the_mean_imbalance_is_of_those_who_answered(tmp_path):
    site = Site(
        lambda kind, _c, _r, client, _t: kind == "query.imbalance" and client == 1
    )
    campaign = campaign_of(tmp_path, "a", site, **FAIRFAL)
    campaign.run()
    assert left_out(campaign) == [("Cycle 2, imbalance", [1])]
    rows = [row for row in rows_of(campaign, "queries.csv") if row["cycle"] == "2"]
    known = {row["client"]: row["imbalance"] for row in rows}
    assert known.keys() == {"0", "1", "2"}  # it still chooses
    assert known["1"] == ""
    assert campaign.state.mean_imbalance == pytest.approx(
        mean([float(known["0"]), float(known["2"])])
    )


@pytest.mark.parametrize(("quorum", "needed"), [(1.0, 3), (0.7, 3), (0.5, 2)])
def test_below_the_quorum_the_run_stops_in_one_line(tmp_path, quorum, needed):
    site = Site(lambda kind, _c, _r, client, _t: kind == "query.select" and client)
    campaign = campaign_of(tmp_path, "a", site, **{"annotation.quorum": quorum})
    with pytest.raises(UserError) as error:
        campaign.run()
    line = str(error.value)
    assert line.startswith(
        f"Cycle 1, query: 1 of 3 clients answered well, but `annotation.quorum` = "
        f"{quorum:g} needs {needed}, also after 1 repetitions"
    )
    assert "clients 1-2: RuntimeError" in line
    assert "\n" not in line


def test_at_the_beginning_everybody_must_be_there(tmp_path):
    site = Site(lambda kind, _c, _r, client, _t: kind == "query.status" and client == 2)
    campaign = campaign_of(tmp_path, "a", site)
    with pytest.raises(
        UserError, match=r"^SuperNode 1002: RuntimeError\('no power'\)$"
    ):
        campaign.run()
    assert site.asked["query.status", 0, 0, 2] == 2


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_with_a_third_of_the_sites_failing_at_random_the_record_adds_up(
    tmp_path, after
):
    """Each request fails in 30 of 100 cases, before its work or when it is done."""

    def fails(*key):
        return random.Random(f"46{key}").random() < 0.3

    keys = FAIRFAL | {
        "num-clients": 6,
        "federation.round-retries": 1,
        "campaign.num-cycles": 3,
        "campaign.num-rounds": 2,
    }
    site = Site(fails, after=after)
    campaign = campaign_of(tmp_path, "a", site, **keys)
    campaign.run()
    summary = read_run(campaign.recorder.folder).summary
    assert summary.finished
    queries, known = rows_of(campaign, "queries.csv"), {}
    rounds = iter(rows_of(campaign, "rounds.csv"))
    for cycle in (1, 2, 3):
        rows = [row for row in queries if row["cycle"] == str(cycle)]
        there = site.answered["query.select", cycle, 0]
        assert {int(row["client"]) for row in rows} == there
        missing = dict(left_out(campaign)).get(f"Cycle {cycle}, query", [])
        assert sorted({*range(6)} - there) == missing
        known |= {row["client"]: int(row["num-labeled"]) for row in rows}
        for number in (1, 2):
            row = next(rounds)
            assert int(row["labels"]) == sum(known.values())
            assert int(row["clients"]) == len(site.answered["train", cycle, number])
        assert summary.cycles[cycle - 1].labels == sum(known.values())
    assert len(left_out(campaign)) > 0
