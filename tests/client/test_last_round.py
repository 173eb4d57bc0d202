"""What is kept of the last round, when, and what it tells the next query."""

import pytest
import torch

from fairfal_flwr.client.last_round import (
    LastRound,
    LastRoundFile,
    PredictionChanges,
    follows_changes,
    is_kept,
)
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import TrainRequest


def a_round(cycle=2, number=7, **overrides):
    weights = {"w": torch.arange(6.0).view(2, 3).t(), "n": torch.tensor(4)}
    values = {
        "weights": weights,
        "sample_ids": torch.tensor([3, 5, 9]),
        "changes": torch.tensor([1, 0, 4]),
    }
    return LastRound(cycle, number, **(values | overrides))


def test_a_round_survives_in_its_file(tmp_path):
    file = LastRoundFile(tmp_path / "client.safetensors")
    assert file.read() is None
    file.write(a_round())
    file.write(a_round(number=8))
    back = LastRoundFile(file.path).read()
    assert (back.cycle, back.round) == (2, 8)
    assert all(torch.equal(back.weights[k], w) for k, w in a_round().weights.items())
    assert torch.equal(back.sample_ids, torch.tensor([3, 5, 9]))
    assert [path.name for path in tmp_path.iterdir()] == ["client.safetensors"]


def test_a_round_without_followed_samples_survives_too(tmp_path):
    file = LastRoundFile(tmp_path / "client.safetensors")
    none = torch.zeros(0, dtype=torch.int64)
    file.write(a_round(sample_ids=none, changes=none))
    assert file.read().changes_of(torch.tensor([1, 2])).tolist() == [0, 0]


def test_a_crash_while_writing_keeps_the_round_before(tmp_path, monkeypatch):
    file = LastRoundFile(tmp_path / "client.safetensors")
    file.write(a_round())

    def torn(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("fairfal_flwr.client.last_round.save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        file.write(a_round(number=8))
    assert file.read().round == 7


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    file = LastRoundFile(tmp_path / "missing" / "client.safetensors")
    with pytest.raises(UserError, match="set `state-dir` to a folder"):
        file.write(a_round())


def test_changes_are_found_by_sample_and_are_zero_where_none_was_followed():
    ids = torch.tensor([1, 3, 4, 9, 12])
    assert a_round().changes_of(ids).tolist() == [0, 1, 0, 4, 0]


@pytest.mark.parametrize(
    ("cycle", "number", "precedes"), [(2, 8, True), (2, 7, False), (3, 8, False)]
)
def test_only_an_earlier_round_of_the_same_cycle_precedes(cycle, number, precedes):
    request = TrainRequest(campaign="x", weights={}, cycle=cycle, round=number, lr=0.1)
    assert a_round().precedes(request) is precedes


def test_prediction_changes_count_from_the_second_look_on():
    """0 1 1, then 0 0 1, then 1 1 1: one change, two changes, none."""
    looks = iter([[0, 1, 1], [0, 0, 1], [1, 1, 1]])
    ids = torch.tensor([7, 8, 9])
    changes = PredictionChanges(lambda: torch.tensor(next(looks)), ids)
    for _ in range(3):
        changes.look()
    assert changes.counts.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, []),
        ({"query.strategy": "random"}, []),
        ({"query.strategy": "entropy"}, []),
        ({"query.strategy": "entropy", "query.model": "local-last"}, [3]),
        ({"query.strategy": "ksas"}, [3]),
        ({"query.strategy": "chase"}, [3]),
        ({"query.strategy": "ksas", "federation.fraction-train": 0.5}, [1, 2, 3]),
        ({"train.objective": "alignment"}, [1, 2, 3]),
        ({"train.objective": "kcfu"}, []),
    ],
    ids=str,
)
def test_a_round_is_kept_only_if_something_will_ask_for_it(config, kept):
    run = RunConfig.from_flat(config | {"campaign.num-rounds": 3})
    assert [number for number in (1, 2, 3) if is_kept(run, number)] == kept


@pytest.mark.parametrize(
    ("config", "follows"),
    [
        ({}, False),
        ({"query.strategy": "ksas"}, False),
        ({"query.strategy": "chase"}, True),
        ({"train.objective": "alignment"}, False),
        ({"train.objective": "alignment", "alignment.quirks": "corrected"}, True),
    ],
    ids=str,
)
def test_predictions_are_followed_only_if_something_asks(config, follows):
    assert follows_changes(RunConfig.from_flat(config)) is follows
