"""A campaign entered in the middle, and what a strategy remembers."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from grid import InProcessGrid, same_weights, small

from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.federation import Federation
from fairfal_flwr.server.sampling import draw_clients
from fairfal_flwr.server.state import CampaignState

# A checkpoint after each round.
CONTINUE = {"campaign.reset": "continue", "campaign.checkpoint-seconds": 0}
ADAPTIVE = {
    "privacy.mechanism": "client-adaptive",
    "privacy.noise-multiplier": 0.1,
}
REMEMBERING = [
    CONTINUE | {"federation.strategy": "scaffold"},
    *(
        pytest.param(CONTINUE | changes, marks=pytest.mark.slow)
        for changes in (
            {"federation.strategy": "fedadam"},
            {"federation.strategy": "fedavgm"},
            {"federation.strategy": "fedyogi"},
            {"federation.strategy": "fedadagrad"},
            ADAPTIVE,
        )
    ),
]


def campaign_of(values, left=None):
    """Return a new campaign, or one that goes on with a run that another left."""
    if left:
        left.recorder.stop(None)
        values = values | {"campaign.resume": str(left.recorder.folder)}
    return Campaign(RunConfig.from_flat(values), InProcessGrid(values, 3))


def steps(campaign, number=1000):
    """Go on until the end, or some steps."""
    np.random.seed(campaign.state.cycle * 10 + campaign.state.round)  # noqa: NPY002
    state = campaign.meet_clients(campaign.state)
    while number and not campaign._is_over(state):
        np.random.seed(state.cycle * 10 + state.round)  # noqa: NPY002 (Flower's noise)
        state = campaign.step(state)
        number -= 1
    campaign.state = state
    return campaign


@pytest.mark.parametrize(
    "after", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 5))]
)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"campaign.checkpoint-seconds": 0}, marks=pytest.mark.slow),
        *REMEMBERING,
    ],
    ids=str,
)
def test_a_campaign_entered_in_the_middle_ends_as_if_never_left(
    tmp_path, changes, after
):
    """Another server goes on after so many of the six steps, with other nodes.

    The third step is the last round of the first cycle: what comes next is a query.
    """
    values = small(tmp_path, "a", **changes)
    find_participant.cache_clear()
    whole = steps(campaign_of(values))
    left = steps(campaign_of(values), after)
    back = campaign_of(values, left)
    back.clients.grid.contexts = {
        node + 500: context for node, context in back.clients.grid.contexts.items()
    }
    assert same_weights(steps(back), whole)
    assert [row.cycle for row in back.recorder.cycles] == [1, 2]
    ours, theirs = (read_run(c.recorder.folder).rounds for c in (back, whole))
    assert [r.accuracy for r in ours] == [r.accuracy for r in theirs]
    assert back.state.labels == whole.state.labels
    assert back.federation.privacy_report() == whole.federation.privacy_report()


@pytest.mark.slow
@pytest.mark.parametrize("changes", REMEMBERING, ids=str)
def test_what_a_strategy_remembers_matters(tmp_path, changes):
    """Without it the run ends elsewhere: the test above would notice a lost memory."""
    values = small(tmp_path, "a", **changes)
    find_participant.cache_clear()
    whole = steps(campaign_of(values))
    left = steps(campaign_of(values), 2)
    fresh = campaign_of(values).federation.state_dict()
    back = campaign_of(values, left)
    back.federation.load_state_dict(fresh)
    assert not same_weights(steps(back), whole)


def test_a_state_dict_is_a_copy(tmp_path):
    campaign = steps(
        campaign_of(small(tmp_path, "a", **{"federation.strategy": "scaffold"})), 2
    )
    before = campaign.federation.state_dict()
    steps(campaign, 1)
    after = campaign.federation.state_dict()
    names = list(before["strategy"]["variate"])
    assert names
    assert before["strategy"]["accepted"] == {str(k): [1, 1] for k in range(3)}
    assert after["strategy"]["accepted"] == {str(k): [1, 2] for k in range(3)}
    assert any(
        (before["strategy"]["variate"][n] != after["strategy"]["variate"][n]).any()
        for n in names
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"federation.strategy": "fedavgm"},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in (
                {"federation.strategy": "fedadam"},
                {"federation.strategy": "scaffold"},
                ADAPTIVE,
            )
        ),
    ],
    ids=str,
)
def test_a_fresh_model_gets_a_fresh_memory(tmp_path, changes):
    """The second cycle is the one of a strategy that never saw the first.

    An adapted clipping norm is no memory of the model, and stays.
    """
    values = small(tmp_path, "a", **changes)
    find_participant.cache_clear()
    whole = steps(campaign_of(values))
    left = steps(campaign_of(values), 3)
    back = campaign_of(values, left)
    back.federation.load_state_dict(
        {"strategy": {}, "privacy": left.federation.state_dict()["privacy"]}
    )
    assert same_weights(steps(back), whole)


def test_an_aggregate_that_is_not_finite_is_refused(tmp_path, monkeypatch):
    campaign = campaign_of(small(tmp_path, "a"))
    original = Federation._aggregate

    def spoiled(self, server_round, replies):
        aggregate, loss = original(self, server_round, replies)
        name = next(iter(aggregate))
        array = aggregate[name].numpy().copy()
        array.flat[0] = np.nan
        aggregate[name] = type(aggregate[name])(array)
        return aggregate, loss

    monkeypatch.setattr(Federation, "_aggregate", spoiled)
    with pytest.raises(UserError, match="aggregate of fedavg holds NaN or Inf in "):
        campaign.run()
    assert campaign.recorder.saved == (1, 0)
    assert all(w.isfinite().all() for w in campaign.state.weights.values())


@pytest.mark.parametrize(
    ("weight", "moved", "is_refused"),
    [
        (5.0, 4998.0, False),
        (5.0, 5002.0, True),
        (0.5, 999.0, False),
        (0.5, 1001.0, True),
    ],
)
def test_an_aggregate_may_move_a_thousand_times_its_own_norm(
    tmp_path, weight, moved, is_refused
):
    """A norm below 1 counts as 1."""
    federation = campaign_of(small(tmp_path, "a")).federation
    last = {"w": torch.tensor([weight])}
    aggregate = ArrayRecord({"w": Array((last["w"] + moved).numpy())})
    if is_refused:
        with pytest.raises(UserError, match=r"moved 1\.0e\+03 times its own norm"):
            federation._accept(aggregate, last)
    else:
        assert federation._accept(aggregate, last)["w"].tolist() == [weight + moved]


def test_of_a_refused_aggregate_the_three_largest_updates_are_named(tmp_path):
    federation = campaign_of(small(tmp_path, "a")).federation
    norms = [5.0, 1.0, 3.0, 9.0, 4.0]
    federation.clients.nodes = {client: 1000 + client for client in range(5)}
    federation._moved = {1000 + c: {"parameters": n} for c, n in enumerate(norms)}
    line = federation._refused("is odd")
    assert "by norm: client 3 (9), client 0 (5), client 4 (4). Lower" in line


@pytest.mark.parametrize(
    ("reset", "cycle", "rounds"),
    [("random", 2, 0), ("continue", 2, 7), ("continue", 1, 0)],
)
def test_a_strategy_counts_the_rounds_since_its_model_was_new(
    tmp_path, reset, cycle, rounds
):
    campaign = campaign_of(small(tmp_path, "a", **{"campaign.reset": reset}))
    state = CampaignState(strategy_rounds=7, weights={"w": torch.ones(1)})
    begun = campaign._with_model_for(cycle, state)
    assert begun.strategy_rounds == rounds
    assert (begun.weights == state.weights) == (rounds == 7)


def test_the_weights_keep_their_types(tmp_path):
    campaign = steps(campaign_of(small(tmp_path, "a")), 2)
    kinds = {w.dtype for w in campaign.state.weights.values()}
    assert kinds == {torch.float32, torch.int64}


def test_a_draw_is_seeded_and_in_the_order_given():
    everyone = [3, 5, 8, 9]
    draws = [draw_clients(everyone, 0.5, 0, "train", 1, r) for r in range(40)]
    assert draws == [draw_clients(everyone, 0.5, 0, "train", 1, r) for r in range(40)]
    assert all(len(drawn) == 2 and drawn == sorted(drawn) for drawn in draws)
    assert {tuple(drawn) for drawn in draws} == {
        (a, b) for i, b in enumerate(everyone) for a in everyone[:i]
    }
    assert draw_clients(everyone, 1.0, 0, "train", 1, 1) == everyone


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("no memory"), "failed", "no memory"),
        (SystemExit(), "stopped", None),
    ],
    ids=str,
)
def test_the_last_event_tells_a_failure_from_a_stop(
    tmp_path, monkeypatch, error, kind, reason
):
    campaign = campaign_of(small(tmp_path, "a"))

    def end(_):
        raise error

    monkeypatch.setattr(campaign.evaluator, "evaluate", end)
    with pytest.raises(type(error)):
        campaign.run()
    last = read_run(campaign.recorder.folder).events[-1]
    assert (last.kind, last.facts) == (kind, {"reason": reason})


@pytest.mark.parametrize(
    "changes",
    [
        {"federation.strategy": "krum", "federation.num-malicious-nodes": 2},
        {"federation.strategy": "krum", "privacy.mechanism": "client-fixed"},
    ],
    ids=str,
)
def test_a_mistake_in_the_federation_leaves_no_folder(tmp_path, changes):
    with pytest.raises(UserError, match=r"`federation.strategy` is krum"):
        campaign_of(small(tmp_path, "a", **changes))
    assert not list(tmp_path.iterdir())
