"""What is kept of the last round, when, and what it tells the next query."""

import numpy as np
import pytest
import torch

from fairfal_flwr.client.keep_round import is_kept, watches_of
from fairfal_flwr.client.last_round import LastRound, LastRounds
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import TrainRequest

NEVER = (0, 0)  # no checkpoint yet


def a_round(cycle=2, number=7, **overrides):
    weights = {"w": torch.arange(6.0).view(2, 3).t(), "n": torch.tensor(4)}
    values = {
        "weights": weights,
        "sample_ids": np.array([3, 5, 9]),
        "watched": {"changes": np.array([1, 0, 4])},
    }
    return LastRound(cycle, number, **(values | overrides))


def request(cycle, number):
    return TrainRequest(campaign="x", weights={}, cycle=cycle, round=number, lr=0.1)


@pytest.fixture
def rounds(tmp_path):
    return LastRounds(tmp_path / "client-0000.sqlite")


def test_a_round_survives_in_its_file(rounds, tmp_path):
    assert rounds.before_cycle(3) is None
    rounds.write(a_round(), NEVER)
    rounds.write(a_round(number=8), NEVER)
    back = LastRounds(tmp_path / "client-0000.sqlite").before_cycle(3)
    assert (back.cycle, back.round) == (2, 8)
    assert all(torch.equal(back.weights[k], w) for k, w in a_round().weights.items())
    assert back.sample_ids.tolist() == [3, 5, 9]
    assert back.watched["changes"].tolist() == [1, 0, 4]


def test_a_round_that_is_asked_for_again_finds_the_one_before(rounds):
    assert rounds.before(request(2, 8)) is None
    rounds.write(a_round(number=6), NEVER)
    rounds.write(a_round(number=7), NEVER)
    for _ in range(2):
        assert rounds.before(request(2, 8)).round == 7
        rounds.write(a_round(number=8), NEVER)
    assert rounds.before(request(2, 7)).round == 6
    assert rounds.before(request(2, 6)) is None
    assert rounds.before(request(3, 9)) is None  # the cycle is over


def test_a_query_finds_the_last_round_before_its_cycle(rounds):
    """Also where the server has gone back: what came later is not yet."""
    for cycle, number in [(1, 9), (2, 1), (2, 12), (3, 4)]:
        rounds.write(a_round(cycle, number), NEVER)
    found = [rounds.before_cycle(cycle) for cycle in (1, 2, 3, 4, 7)]
    assert [last and (last.cycle, last.round) for last in found] == [
        *(None, (1, 9), (2, 12), (3, 4), (3, 4))
    ]


def test_only_what_a_run_from_the_checkpoint_needs_is_kept(rounds):
    for number in (2, 3, 5, 8):
        rounds.write(a_round(number=number), NEVER)
    rounds.write(a_round(number=9), (2, 5))
    assert rounds.files.moments() == [(2, 5), (2, 8), (2, 9)]
    rounds.write(a_round(3, 1), (2, 20))
    assert rounds.files.moments() == [(2, 9), (3, 1)]


def test_a_round_without_followed_samples_survives_too(rounds):
    none = np.zeros(0, dtype=np.int64)
    rounds.write(a_round(sample_ids=none, watched={"changes": none}), NEVER)
    last = rounds.before_cycle(3)
    assert last.memory("changes", np.array([1, 2])).tolist() == [0, 0]
    rounds.write(LastRound(1, 1, {"w": torch.ones(1)}), NEVER)
    last = rounds.before_cycle(2)
    assert last.memory("changes", np.array([1, 2])).tolist() == [0, 0]


def test_a_crash_while_writing_keeps_the_round_as_it_was(rounds, monkeypatch):
    rounds.write(a_round(), NEVER)

    def torn(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("fairfal_flwr.tensor_file.save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        rounds.write(a_round(watched={}), NEVER)
    assert rounds.before_cycle(3).watched["changes"].tolist() == [1, 0, 4]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    rounds = LastRounds(tmp_path / "missing" / "client-0000.sqlite")
    with pytest.raises(UserError, match="set `state-dir` to a folder"):
        rounds.write(a_round(), NEVER)


def test_what_was_watched_is_found_by_sample_and_is_zero_elsewhere():
    ids = np.array([1, 3, 4, 9, 12])
    assert a_round().memory("changes", ids).tolist() == [0, 1, 0, 4, 0]
    assert a_round().memory("other", ids).tolist() == [0, 0, 0, 0, 0]


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
