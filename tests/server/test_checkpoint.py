"""What a campaign goes on from: written, read back, damaged, contradicted."""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from grid import InProcessGrid, run_campaign, same_weights, small

from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.lock import hold, release
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from fairfal_flwr.server.state import CampaignState

STATE = CampaignState(
    cycle=3,
    round=2,
    samples={0: 40, 11: 7},
    labels={0: 4, 11: 0},
    most_labels={0: 5, 11: 1},
    ledgers={0: [5, 2**60 - 1], 11: [2, 0]},
    weights={"n": torch.tensor(7), "a.b": torch.tensor([[1.5, -2.0]])},
    strategy_rounds=9,
    mean_imbalance=0.25,
    global_queries=1,
    query_seconds=0.5,
    train_seconds=1.5,
)
MEMORY = {
    "strategy": {
        "variate": {"a.b": np.array([1.0, 2.0], dtype=np.float32)},
        "accepted": {"0": [3, 1]},
        "m_t": {},
        "v_t": [np.arange(3.0), np.zeros((2, 0))] + [np.ones(1)] * 9,
        "momentum_vector": None,
    },
    "privacy": {"clipping-norm": 0.75},
}
CHECKPOINT = Checkpoint({"seed": 5, "train.lr": 0.1}, STATE, MEMORY, {"rounds.csv": 9})


def test_a_checkpoint_says_what_was_written(tmp_path):
    write_checkpoint(tmp_path, CHECKPOINT)
    back = read_checkpoint(tmp_path)
    assert back.config == CHECKPOINT.config
    assert back.sizes == CHECKPOINT.sizes
    assert replace(back.state, weights={}) == replace(STATE, weights={})
    assert list(back.state.weights) == list(STATE.weights)
    for name, value in STATE.weights.items():
        assert torch.equal(back.state.weights[name], value)
        assert back.state.weights[name].dtype == value.dtype
    found = back.memory["strategy"].pop("variate")
    assert found["a.b"].tolist() == [1.0, 2.0]
    assert found["a.b"].dtype == np.float32
    moments = back.memory["strategy"].pop("v_t")
    assert [m.tolist() for m in moments] == [[0, 1, 2], [[], []], *[[1.0]] * 9]
    arrays = ("variate", "v_t")
    rest = {k: v for k, v in MEMORY["strategy"].items() if k not in arrays}
    assert back.memory == MEMORY | {"strategy": rest}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    write_checkpoint(tmp_path, CHECKPOINT)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    draw = random.Random(0)
    damaged = [whole[: draw.randrange(len(whole))] for _ in range(40)]
    for _ in range(400):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(data))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            read_checkpoint(tmp_path)
        assert path.read_bytes() == data


def test_a_checkpoint_that_cannot_be_written_leaves_the_last(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, CHECKPOINT)

    def no_room(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fairfal_flwr.tensor_file.save_file", no_room)
    with pytest.raises(UserError, match=r"No space left .* the last one is still good"):
        write_checkpoint(tmp_path, replace(CHECKPOINT, sizes={}))
    assert read_checkpoint(tmp_path).sizes == CHECKPOINT.sizes


# --- Going on ------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a campaign where the operating system would: nothing is tidied up."""


def resumed(values, folder):
    values = values | {"campaign.resume": str(folder)}
    find_participant.cache_clear()
    return Campaign(RunConfig.from_flat(values), InProcessGrid(values, 3))


def killed_after(values, messages, monkeypatch):
    """Run a campaign until its clients have answered so many messages; return it."""
    find_participant.cache_clear()
    grid = InProcessGrid(values, 3)
    campaign = Campaign(RunConfig.from_flat(values), grid)
    deliver = grid._deliver

    def count(message):
        if (
            len(grid.replies) + len(grid.requests) >= 0
            and len(grid.requests) == messages
        ):
            raise Killed
        return deliver(message)

    grid._deliver = count
    monkeypatch.setattr(campaign, "_stop", lambda _: None)
    with pytest.raises(Killed):
        campaign.run()
    release(campaign.recorder._lock)  # which the end of a process does
    return campaign


def without_times(folder):
    run = read_run(folder)
    rounds = [replace(row, seconds=0.0) for row in run.rounds]
    times = ("local_training_seconds", "outputs_seconds", "selection_seconds")
    queries = [replace(row, **dict.fromkeys(times, 0.0)) for row in run.queries]
    none = {"query_seconds": 0.0, "train_seconds": 0.0}
    cycles = tuple(replace(row, **none) for row in run.summary.cycles)
    return rounds, queries, replace(run.summary, seconds=0.0, cycles=cycles, run="")


def choices(campaign):
    config, name = campaign.config, campaign.recorder.name
    ledgers = [find_participant(config, k, name).ledger for k in range(3)]
    return [
        [ledger.selection(cycle).tolist() for cycle in (1, 2)] for ledger in ledgers
    ]


@pytest.mark.parametrize("messages", [5, 9, 13, 16, 20])
def test_a_run_that_was_killed_ends_as_if_it_never_was(tmp_path, messages, monkeypatch):
    """Three clients: status 0-2, select 3-5, train 6-11, imbalance 12-14, and so on."""
    values = small(
        tmp_path,
        "a",
        **{"query.strategy": "fairfal", "federation.strategy": "scaffold"},
    )
    whole, _ = run_campaign(values | {"output-dir": str(tmp_path / "whole")})
    chosen = choices(whole)
    left = killed_after(values, messages, monkeypatch)
    back = resumed(values, left.recorder.folder)
    assert back.recorder.folder == left.recorder.folder
    back.run()
    assert same_weights(back, whole)
    assert choices(back) == chosen
    assert without_times(back.recorder.folder) == without_times(whole.recorder.folder)


def finished(tmp_path, **changes):
    return run_campaign(small(tmp_path, "a", **changes))[0]


def test_rows_that_came_after_the_checkpoint_are_cut(tmp_path, monkeypatch):
    values = small(tmp_path, "a", **{"campaign.checkpoint-seconds": 1000})
    left = killed_after(
        values, 13, monkeypatch
    )  # two rounds are done, and the cycle's end is saved
    path = left.recorder.folder / "rounds.csv"
    rows = path.read_bytes()
    with path.open("ab") as file:
        file.write(rows.splitlines(keepends=True)[-1])
        file.write(b"2,1,")  # and one that nobody finished
    back = resumed(values, left.recorder.folder)
    assert path.read_bytes() == rows
    back.run()
    found = [(row.cycle, row.round) for row in read_run(left.recorder.folder).rounds]
    assert found == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_rows_that_are_missing_are_named_and_nothing_is_changed(tmp_path):
    campaign = finished(tmp_path)
    folder, path = campaign.recorder.folder, campaign.recorder.folder / "rounds.csv"
    head = len(path.read_bytes().splitlines(keepends=True)[0])
    os.truncate(path, head)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    values = small(tmp_path, "a", **{"campaign.num-cycles": 3})
    with pytest.raises(UserError, match=rf"rounds\.csv has {head} bytes and had "):
        resumed(values, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_finished_run_goes_on_where_more_cycles_are_asked_for(tmp_path):
    folder = finished(tmp_path).recorder.folder
    with pytest.raises(
        UserError, match=r"finished cycle 2 and `campaign\.num-cycles` "
    ):
        resumed(small(tmp_path, "a"), folder)
    back = resumed(small(tmp_path, "a", **{"campaign.num-cycles": 3}), folder)
    back.run()
    run = read_run(folder)
    assert [row.cycle for row in run.summary.cycles] == [1, 2, 3]
    assert run.summary.finished
    assert run.config["campaign.num-cycles"] == 3
    assert [event.kind for event in run.events].count("resumed") == 1


def test_what_contradicts_the_run_is_named_key_by_key(tmp_path):
    folder = finished(tmp_path).recorder.folder
    changes = {"seed": 4, "train.lr": 0.5, "threads": 2, "campaign.num-cycles": 3}
    with pytest.raises(UserError) as caught:
        resumed(small(tmp_path, "a", **changes), folder)
    line = str(caught.value)
    assert "`seed` is 4, the run has 0; `train.lr` is 0.5, the run has 0.01;" in line
    assert "`threads`" not in line
    assert "allowed to change: annotation.deadline, annotation.min-labels, " in line


def test_a_folder_without_a_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no checkpoint\.safetensors"):
        resumed(small(tmp_path, "a"), tmp_path)


def test_two_servers_never_share_a_run(tmp_path):
    folder = finished(tmp_path).recorder.folder
    held = hold(folder)  # by its name in `output-dir`, which is the same
    more = small(tmp_path, "a", **{"campaign.num-cycles": 3})
    with pytest.raises(UserError, match="Another process is at work on the run"):
        resumed(more, folder)
    release(held)
    assert resumed(more, folder.name).state.cycle == 2


def test_a_client_keeps_no_more_than_the_server_can_ask_for(tmp_path):
    values = small(
        tmp_path,
        "a",
        **{"federation.strategy": "scaffold", "campaign.num-rounds": 6},
        **{"campaign.checkpoint-seconds": 0},
    )
    campaign, _ = run_campaign(values)
    ledger = find_participant(campaign.config, 0, campaign.recorder.name).ledger.path
    names = sorted(path.name for path in ledger.parent.glob("client-0000.variate-*"))
    assert names == [
        "client-0000.variate-0002-000005.safetensors",
        "client-0000.variate-0002-000006.safetensors",
    ]
