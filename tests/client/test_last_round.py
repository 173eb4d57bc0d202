"""What is kept of the last round, when, and what it tells the next query."""

import numpy as np
import pytest
import torch

from fairfal_flwr.client.keep_round import is_kept, watches_of
from fairfal_flwr.client.last_round import LastRound, LastRoundFile
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import TrainRequest


def a_round(cycle=2, number=7, **overrides):
    weights = {"w": torch.arange(6.0).view(2, 3).t(), "n": torch.tensor(4)}
    values = {
        "weights": weights,
        "sample_ids": np.array([3, 5, 9]),
        "watched": {"changes": np.array([1, 0, 4])},
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
    assert back.sample_ids.tolist() == [3, 5, 9]
    assert back.watched["changes"].tolist() == [1, 0, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["client.safetensors"]


def test_a_round_that_is_asked_for_again_finds_the_one_before(tmp_path):
    file = LastRoundFile(tmp_path / "client.safetensors")
    request = TrainRequest(campaign="x", weights={}, cycle=2, round=8, lr=0.1)
    assert file.before(request) is None
    file.write(a_round(number=6))
    file.write(a_round(number=7))
    for _ in range(2):
        assert file.before(request).round == 7
        file.write(a_round(number=8))
        assert file.read().round == 8
    file.write(a_round(cycle=3, number=1))
    assert file.before(request) is None  # the cycle is over
    assert (file.read().cycle, file.read().round) == (3, 1)


def test_a_round_without_followed_samples_survives_too(tmp_path):
    file = LastRoundFile(tmp_path / "client.safetensors")
    none = np.zeros(0, dtype=np.int64)
    file.write(a_round(sample_ids=none, watched={"changes": none}))
    assert file.read().memory("changes", np.array([1, 2])).tolist() == [0, 0]
    file.write(LastRound(1, 1, {"w": torch.ones(1)}))
    assert file.read().memory("changes", np.array([1, 2])).tolist() == [0, 0]


def test_a_crash_while_writing_keeps_the_round_before(tmp_path, monkeypatch):
    file = LastRoundFile(tmp_path / "client.safetensors")
    file.write(a_round())

    def torn(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("fairfal_flwr.client.tensor_file.save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        file.write(a_round(number=8))
    assert file.read().round == 7


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    file = LastRoundFile(tmp_path / "missing" / "client.safetensors")
    with pytest.raises(UserError, match="set `state-dir` to a folder"):
        file.write(a_round())


def test_what_was_watched_is_found_by_sample_and_is_zero_elsewhere():
    ids = np.array([1, 3, 4, 9, 12])
    assert a_round().memory("changes", ids).tolist() == [0, 1, 0, 4, 0]
    assert a_round().memory("other", ids).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("cycle", "number", "precedes"), [(2, 8, True), (2, 7, False), (3, 8, False)]
)
def test_only_an_earlier_round_of_the_same_cycle_precedes(cycle, number, precedes):
    request = TrainRequest(campaign="x", weights={}, cycle=cycle, round=number, lr=0.1)
    assert a_round().precedes(request) is precedes


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
        ({}, []),
        ({"query.strategy": "ksas"}, []),
        ({"query.strategy": "chase"}, [3]),
        ({"query.strategy": "chase", "federation.fraction-train": 0.5}, [1, 2, 3]),
        ({"train.objective": "alignment"}, []),
        ({"train.objective": "alignment", "query.strategy": "chase"}, [3]),
        ({"train.objective": "alignment", "alignment.quirks": "corrected"}, [1, 2, 3]),
    ],
    ids=str,
)
def test_predictions_are_followed_only_if_something_asks(config, follows):
    run = RunConfig.from_flat(config | {"campaign.num-rounds": 3})
    assert [list(watches_of(run, n)) for n in (1, 2, 3)] == [
        ["changes"] * (n in follows) for n in (1, 2, 3)
    ]
