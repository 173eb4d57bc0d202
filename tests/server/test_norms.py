"""Updates that are suspiciously large are dropped, and their clients named."""

import re

import numpy as np
import pytest
import torch
from flwr.app import Array
from grid import InProcessGrid, facts_of, same_weights, small

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import TrainRequest
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.checkpoint import read_checkpoint
from fairfal_flwr.server.norms import excess, norm

HOSTILE = 1
ONE_CYCLE = {"campaign.num-cycles": 1}


@pytest.mark.parametrize(
    ("norms", "most", "found"),
    [
        ([1.0, 2.0, 40.0], 10, {2: 20.0}),
        ([1.0, 2.0, 20.0], 10, {}),  # just at it
        ([1.0, 2.0, 20.1], 10, {2: pytest.approx(10.05)}),
        ([1.0, 3.0, 1.0, 90.0], 10, {3: 45.0}),  # between the two in the middle
        ([1.0, 100.0], 10, {}),  # who of the two?
        ([], 10, {}),
        ([0.0, 0.0, 5.0], 10, {}),  # beside nothing everything is large
        (
            [1.0, 1.0, 1.0, 30.0, 50.0],
            0.5,
            dict(enumerate([1, 1, 1, 30, 50])),
        ),
    ],
)
def test_whose_norm_is_too_large(norms, most, found):
    assert excess(dict(enumerate(norms)), most) == found


def test_the_norm_is_of_all_arrays_together_and_does_not_overflow():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=shape).astype(np.float32) for shape in ((), (3,), (2, 5))]
    flat = np.concatenate([part.ravel() for part in parts])
    assert norm(parts) == pytest.approx(np.linalg.norm(flat))
    assert norm([]) == 0
    assert norm([np.full(4, 1e30, np.float32)]) == pytest.approx(2e30)


def scale(names, factor, record="arrays"):
    """Return what multiplies some of the arrays of a reply."""

    def change(content):
        arrays = content[record]
        for name in arrays:
            if re.search(names, name):
                own = arrays[name].numpy()
                arrays[name] = Array(np.asarray(own * factor, own.dtype))

    return change


def crash(_content):
    raise RuntimeError("gone")


def campaign_of(tmp_path, name, change, since=1, **keys):
    """Return a campaign with a hostile client, and the rounds that this was asked."""
    values = small(tmp_path, name, **ONE_CYCLE, **keys)
    asked = []

    def client(message, context):
        reply = app(message, context)
        is_train = message.metadata.message_type == "train"
        if is_train and context.node_config["partition-id"] == HOSTILE:
            asked.append(TrainRequest.from_content(message.content).round)
            if asked[-1] >= since:
                change(reply.content)
        return reply

    find_participant.cache_clear()
    config = RunConfig.from_flat(values)
    grid = InProcessGrid(values, config.num_clients, client)
    return Campaign(config, grid), asked


def dropped(campaign):
    facts = facts_of(campaign, EventKind.REPLY_DROPPED)
    return [(fact["client"], fact["reason"]) for fact in facts]


@pytest.mark.parametrize(
    ("change", "words", "keys"),
    [
        (scale("", 1e6), "change of BatchNorm's statistics", {}),
        (scale(r"(weight|bias)$", 1e6), "update", {}),
        (scale("running_var", 1e6), "change of BatchNorm's statistics", {}),
        (
            scale("", 1e6, "variate"),
            "change of the control variate",
            {"federation.strategy": "scaffold"},
        ),
    ],
    ids=["all", "parameters", "buffers", "variate"],
)
def test_a_huge_update_is_dropped_as_if_it_had_not_come(
    tmp_path, caplog, change, words, keys
):
    attacked, asked = campaign_of(tmp_path, "a", change, **keys)
    attacked.run()
    assert asked == [1, 2]
    found = dropped(attacked)
    assert [client for client, _ in found] == [HOSTILE, HOSTILE]
    for _, reason in found:
        line = (
            rf"the norm of its {words} is \S+ times the median of this round; "
            r"allowed: 100 \(`federation.max-update-norm`\)"
        )
        assert re.fullmatch(line, reason)
    calm, _ = campaign_of(tmp_path, "b", crash, **keys)
    calm.run()
    assert same_weights(attacked, calm)


def test_who_is_dropped_for_the_norm_is_not_asked_again(tmp_path):
    """Training gives the same again; below the quorum the run stops and names it."""
    campaign, asked = campaign_of(
        tmp_path, "a", scale("", 1e6), since=2, **{"federation.quorum": 1.0}
    )
    with pytest.raises(UserError, match=r"2 of 3 clients .* client 1: the norm of its"):
        campaign.run()
    assert asked == [1, 2]


@pytest.mark.parametrize(
    "keys",
    [{"num-clients": 2}, {"federation.max-update-norm": 0.0}],
    ids=["two replies", "off"],
)
def test_where_nobody_is_dropped_the_model_of_the_round_before_is_kept(tmp_path, keys):
    keys = {"campaign.checkpoint-seconds": 0, **keys}
    campaign, _ = campaign_of(tmp_path, "a", scale("", 1e6), since=2, **keys)
    with pytest.raises(UserError, match=r"The aggregate of fedavg moved \S+ times its"):
        campaign.run()
    folder = campaign.recorder.folder
    reason = read_run(folder).events[-1].facts["reason"]
    assert "The largest updates, by norm: client 1 (" in reason
    assert "\n" not in reason
    saved = read_checkpoint(folder).state
    assert saved.moment == (1, 1)
    calm, _ = campaign_of(
        tmp_path, "b", scale("", 1), **keys, **{"campaign.num-rounds": 1}
    )
    calm.run()
    ours, theirs = saved.weights, calm.state.weights
    assert all(torch.equal(ours[name], w) for name, w in theirs.items())


def test_without_the_check_it_would_be_used(tmp_path):
    """An attack that is too small for the last line of defense."""
    off = {"federation.max-update-norm": 0.0}
    attacked, _ = campaign_of(tmp_path, "a", scale("", 100), **off)
    attacked.run()
    assert dropped(attacked) == []
    strict = {"federation.max-update-norm": 10.0}
    checked, _ = campaign_of(tmp_path, "b", scale("", 100), **strict)
    checked.run()
    assert len(dropped(checked)) == 2
    assert not same_weights(attacked, checked)


def test_a_client_that_had_to_clip_and_did_not_is_dropped(tmp_path):
    """Whatever the others sent: what counts must not depend on their data."""
    private = {"privacy.mechanism": "client-fixed", "privacy.noise-multiplier": 0.0}
    campaign, _ = campaign_of(tmp_path, "a", scale("weight$", 3), **private)
    campaign.run()
    found = dropped(campaign)
    assert [client for client, _ in found] == [HOSTILE, HOSTILE]
    assert "allowed: 1, to which it had to be clipped" in found[0][1]


def test_where_the_server_clips_no_update_is_too_large(tmp_path):
    private = {"privacy.mechanism": "server-fixed", "privacy.noise-multiplier": 0.0}
    campaign, _ = campaign_of(tmp_path, "a", scale("weight$", 1e6), **private)
    campaign.run()
    assert dropped(campaign) == []
    assert all(w.abs().max() < 100 for w in campaign.state.weights.values())
