"""What the campaign tells its recorder, found again in the files of the run."""

import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from fairfal_flwr import __version__
from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import SelectReply
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.rows import CycleRow
from fairfal_flwr.server.checkpoint import read_checkpoint
from fairfal_flwr.server.counts import Standing
from fairfal_flwr.server.recorder import Recorder
from fairfal_flwr.server.state import CampaignState

CYCLE = CycleRow(1, 9, 0.1, 0.5, 1.0, 0.25, (0.5,), 0.75, 1, 2.0, 3.0)
OWN = "examples.my_strategy:rarest_first"
WEIGHTS = {"w": torch.ones(2)}
PRIVACY = {"mechanism": "local", "epsilon": None}


@pytest.fixture
def recorder(tmp_path):
    keys = {"output-dir": str(tmp_path), "query.strategy": OWN, "seed": 7}
    return Recorder(RunConfig.from_flat(keys | {"num-clients": 2}))


def test_a_run_is_named_after_what_it_is_of(recorder):
    what = r"digits-examples\.my_strategy-rarest_first-seed7"
    assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{what}-[0-9a-f]{{8}}", recorder.name)
    run = read_run(recorder.folder)
    assert run.summary is None
    assert run.config["query.strategy"] == OWN
    assert run.events[0].kind == EventKind.RUN_STARTED
    assert run.events[0].facts["run"] == recorder.name


def test_whom_it_met_is_an_event(recorder):
    recorder.announce(num_samples=100, num_gpus=2, rare=[8, 9])
    event = read_run(recorder.folder).events[-1]
    assert (event.kind, event.facts) == (
        EventKind.CLIENTS_MET,
        {"images": 100, "gpus": 2},
    )


def test_a_choice_between_the_models_is_recorded_where_it_is_made(recorder):
    replies = {
        client: SelectReply(
            5, 4, 9, 11, 0, 0, 0.5, global_query, 0.5, 0.25, 0.125, [3, 1]
        )
        for client, global_query in enumerate([-1, 0, 1])
    }
    recorder.record_queries(2, OWN, replies, {1: 0.75})
    rows = read_run(recorder.folder).queries
    assert [row.global_query for row in rows] == [None, 0, 1]
    assert [row.imbalance for row in rows] == [None, 0.75, None]
    assert {(row.cycle, row.strategy, row.num_labeled) for row in rows} == {(2, OWN, 9)}


def test_a_finished_run_has_its_cycles_and_what_privacy_it_spent(recorder):
    recorder.record_cycle(CYCLE, WEIGHTS, None)
    assert read_run(recorder.folder).summary.finished is False
    recorder.finish(PRIVACY)
    run = read_run(recorder.folder)
    assert run.summary == recorder.summary
    assert run.summary.finished is True
    assert run.summary.cycles == recorder.cycles == (CYCLE,)
    assert run.summary.privacy == PRIVACY
    kinds = [event.kind for event in run.events[1:]]
    assert kinds == [EventKind.CYCLE_FINISHED, EventKind.FINISHED]


@pytest.mark.parametrize(
    ("reason", "kind"), [(None, EventKind.STOPPED), ("no power", EventKind.FAILED)]
)
def test_a_run_that_ends_early_says_whether_it_failed(recorder, reason, kind):
    recorder.record_cycle(CYCLE, WEIGHTS, None)
    recorder.stop(PRIVACY, reason)
    run = read_run(recorder.folder)
    assert (run.events[-1].kind, run.events[-1].facts) == (kind, {"reason": reason})
    assert run.summary.finished is False
    assert run.summary.privacy == PRIVACY


def test_a_run_that_ends_within_a_cycle_keeps_the_model_of_the_last_whole_one(recorder):
    recorder.record_cycle(CYCLE, WEIGHTS, None)
    later = CampaignState(cycle=2, round=3, weights={"w": torch.zeros(2)})
    recorder.save(later, dict)
    recorder.stop(None)
    with safe_open(recorder.folder / "model.safetensors", "pt") as model:
        assert model.metadata() == {"cycle": "1"}
        assert model.get_tensor("w").tolist() == [1, 1]


def test_how_far_people_are_is_an_event_where_it_changed(recorder):
    for still_open, left in [(3, 60.0), (3, 45.0), (2, 30.0)]:
        labeled = {0: 4 - still_open, 2: 5}
        recorder.record_standing(Standing(1, {0: still_open, 2: 0}, labeled, left))
    told = read_run(recorder.folder).events[-2:]
    assert {event.kind for event in told} == {EventKind.ANSWERING}
    facts = {"cycle": 1, "clients": [0, 2]}
    assert [event.facts for event in told] == [
        facts | {"open": [3, 0], "labeled": [1, 5], "seconds_left": 60.0},
        facts | {"open": [2, 0], "labeled": [2, 5], "seconds_left": 30.0},
    ]


@pytest.mark.parametrize(("number", "num_kept"), [(9, 1), (10, 2)])
def test_a_run_that_goes_on_keeps_the_cycles_that_its_checkpoint_ended(
    recorder, tmp_path, number, num_kept
):
    """Ten rounds a cycle; the third cycle's row came after the checkpoint."""
    rows = [replace(CYCLE, cycle=cycle) for cycle in (1, 2, 3)]
    recorder.record_cycle(rows[0], WEIGHTS, None)
    recorder.record_cycle(rows[1], WEIGHTS, None)
    recorder._saved_at = -math.inf
    recorder.save(CampaignState(cycle=2, round=number), dict)
    recorder.record_cycle(rows[2], WEIGHTS, None)
    recorder._started -= 1000
    recorder.stop(None)
    keys = {"output-dir": str(tmp_path), "query.strategy": OWN, "seed": 7}
    config = RunConfig.from_flat(
        keys | {"num-clients": 2, "campaign.resume": str(recorder.folder)}
    )
    back = Recorder(config, read_checkpoint(recorder.folder))
    assert (back.cycles, back.summary.finished) == (tuple(rows[:num_kept]), False)
    event = read_run(back.folder).events[-1]
    assert (event.kind, event.facts) == (
        EventKind.RESUMED,
        {"cycle": 2, "round": number, "version": __version__},
    )
    back.stop(None)
    assert back.summary.seconds > 1000


def test_a_checkpoint_within_a_cycle_waits_and_at_its_ends_does_not(recorder):
    """Ten rounds in a cycle, and no ten seconds pass."""
    saved = []
    for cycle, number in [(1, 0), (1, 1), (1, 9), (1, 10), (2, 0), (2, 5)]:
        recorder.save(CampaignState(cycle=cycle, round=number), dict)
        saved.append(recorder.saved)
    assert saved == [(1, 0), (1, 0), (1, 0), (1, 10), (2, 0), (2, 0)]


@pytest.mark.parametrize(
    "keys",
    [{"campaign.checkpoint-seconds": 0}, {"privacy.mechanism": "local"}],
    ids=str,
)
def test_a_checkpoint_is_after_every_round_where_that_is_asked_for(tmp_path, keys):
    recorder = Recorder(RunConfig.from_flat({"output-dir": str(tmp_path), **keys}))
    recorder.save(CampaignState(cycle=1, round=1), dict)
    recorder.save(CampaignState(cycle=1, round=2), dict)
    assert recorder.saved == (1, 2)
