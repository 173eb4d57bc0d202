"""Differential privacy by config: clipping, noise, refusals, and what is reported."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAvg,
)
from grid import InProcessGrid, run_campaign, small, strategy_of

from client_app import app
from fairfal_flwr.client import participant
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.client.training import Trained
from fairfal_flwr.config import PrivacyConfig, RunConfig
from fairfal_flwr.config.privacy import MECHANISMS
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import unpack_weights
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.accounting import gaussian_delta, gaussian_epsilon
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.privacy import (
    keep_variances_positive,
    load_wrapper_memory,
    privacy_report,
    renew,
    wrapper_memory,
)
from fairfal_flwr.server.strategies import make_strategy


def one_round(tmp_path, name, **changes):
    short = {"campaign.num-cycles": 1, "campaign.num-rounds": 1}
    return small(tmp_path, name, **(short | changes))


def with_mechanism(name, **keys):
    changes = {f"privacy.{key.replace('_', '-')}": value for key, value in keys.items()}
    return {"privacy.mechanism": name} | changes


def trained(grid):
    """Return the weights sent, and the weights of each reply."""
    trains = [m for m in grid.requests if m.metadata.message_type == "train"]
    replies = [m for m in grid.replies if m.metadata.message_type == "train"]
    sent = unpack_weights(trains[0].content["arrays"])
    return sent, [unpack_weights(reply.content["arrays"]) for reply in replies]


def difference(new, old):
    return torch.cat([(new[name] - old[name]).flatten() for name in old])


@pytest.mark.parametrize("mechanism", [m for m in MECHANISMS if m != "none"])
def test_each_mechanism_runs_by_one_key(tmp_path, mechanism):
    noise = {"noise_multiplier": 0.2} if "adaptive" in mechanism else {}
    keys = with_mechanism(mechanism, clipping_norm=0.5, **noise)
    campaign, grid = run_campaign(
        one_round(tmp_path, "a", **keys, **{"campaign.num-cycles": 2})
    )
    assert not any(message.has_error() for message in grid.replies)
    assert all(torch.isfinite(w).all() for w in campaign.state.weights.values())
    assert all(
        (w > 0).all()
        for n, w in campaign.state.weights.items()
        if n.endswith("running_var")
    )
    report = read_run(campaign.recorder.folder).summary.privacy
    assert report["mechanism"] == mechanism
    assert set(report["settings"]) == {
        key.replace("-", "_") for key in MECHANISMS[mechanism]
    }
    assert report["neighbor"] == "replace-one"
    assert "accounting" in report


def test_without_a_mechanism_nothing_is_reported(tmp_path):
    campaign, _ = run_campaign(one_round(tmp_path, "a"))
    assert read_run(campaign.recorder.folder).summary.privacy is None


@pytest.mark.parametrize("mechanism", ["client-fixed", "client-adaptive"])
def test_a_clipped_update_leaves_the_client_with_at_most_the_norm(tmp_path, mechanism):
    keys = with_mechanism(mechanism, clipping_norm=0.25, noise_multiplier=0.0)
    _, grid = run_campaign(one_round(tmp_path, "a", **keys))
    sent, replies = trained(grid)
    norms = [float(difference(reply, sent).norm()) for reply in replies]
    assert norms == pytest.approx([0.25] * 3, rel=1e-3)


def test_clipping_without_effect_leaves_the_mean_of_the_updates(tmp_path):
    """No noise and a norm beyond all updates: the plain mean, with equal weights."""
    keys = with_mechanism("server-fixed", clipping_norm=1e6, noise_multiplier=0.0)
    campaign, grid = run_campaign(one_round(tmp_path, "a", **keys))
    _, replies = trained(grid)
    for name in replies[0]:
        mean = torch.stack([reply[name] for reply in replies]).mean(dim=0)
        torch.testing.assert_close(
            campaign.state.weights[name], mean, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("missing", [0, 1])
def test_the_noise_fits_the_number_of_updates_averaged(tmp_path, missing):
    """Standard deviation z S / n, n the replies used: here all, or one fewer."""

    def flaky(message, context):
        is_train = message.metadata.message_type == "train"
        if is_train and context.node_config["partition-id"] < missing:
            raise RuntimeError("gone")
        return app(message, context)

    keys = with_mechanism("server-fixed", clipping_norm=1e-2, noise_multiplier=3.0)
    overrides = one_round(tmp_path, "a", **keys)
    find_participant.cache_clear()
    grid = InProcessGrid(overrides, 3, flaky)
    campaign = Campaign(RunConfig.from_flat(overrides), grid)
    campaign.run()
    sent, _ = trained_without_errors(grid)
    trainable = {n: w for n, w in sent.items() if "running" not in n}
    noise = difference(campaign.state.weights, trainable)
    assert float(noise.std()) == pytest.approx(3e-2 / (3 - missing), rel=0.02)


def trained_without_errors(grid):
    grid.replies = [reply for reply in grid.replies if not reply.has_error()]
    return trained(grid)


def test_local_noise_is_added_before_the_update_leaves(tmp_path):
    """Standard deviation 2 S sqrt(2 ln(1.25 / delta)) / epsilon; fresh in every run."""
    keys = with_mechanism("local", clipping_norm=1e-2, epsilon=0.5, delta=1e-3)
    sent, replies = trained(run_campaign(one_round(tmp_path, "a", **keys))[1])
    wanted = 2e-2 * np.sqrt(2 * np.log(1.25 / 1e-3)) / 0.5
    for reply in replies:
        noise = difference(reply, sent)
        assert float(noise.std()) == pytest.approx(wanted, rel=0.02)
    sent_again, again = trained(
        run_campaign(one_round(tmp_path, "b", seed=1, **keys))[1]
    )
    first, second = difference(replies[0], sent), difference(again[0], sent_again)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05


def test_the_adaptive_norm_moves_and_outlives_a_reset(tmp_path):
    keys = with_mechanism("client-adaptive", clipping_norm=0.1, noise_multiplier=0.0)
    campaign, grid = run_campaign(
        one_round(tmp_path, "a", **keys, **{"campaign.num-cycles": 3})
    )
    norms = [
        m.content["config"]["clipping_norm"]
        for m in grid.requests
        if m.metadata.message_type == "train"
    ]
    distinct = sorted(set(norms))
    # All updates are clipped, so the norm grows by exp(0.2 * 0.5) a round.
    assert distinct == pytest.approx([0.1, 0.1 * np.exp(0.1), 0.1 * np.exp(0.2)])
    report = campaign.federation.privacy_report()
    assert report["clipping_norm"] == pytest.approx(0.1 * np.exp(0.3))


@pytest.mark.parametrize("mechanism", ["server-adaptive", "client-adaptive"])
@pytest.mark.parametrize("clipped", [0.0, 0.25, 0.9])
def test_the_adaptive_norm_moves_to_the_quantile(mechanism, clipped):
    """C <- C exp(-η (b - γ)), b = 1 - clipped, η = 0.3, γ = 0.7."""
    keys = {
        "noise_multiplier": 0.1,
        "target_clipped_quantile": 0.7,
        "clip_norm_lr": 0.3,
    }
    strategy = strategy_of(RunConfig.from_flat(with_mechanism(mechanism, **keys)))
    strategy._geometric_update(clipped)
    assert strategy.clipping_norm == pytest.approx(np.exp(-0.3 * (0.3 - clipped)))


@pytest.mark.parametrize(("asked_for", "used"), [(0.0, 0.25), (0.75, 0.75)])
def test_the_noise_of_the_count_is_the_one_asked_for(asked_for, used):
    """Unless any is asked for, a twentieth of the five clients of a round."""
    keys = {"noise_multiplier": 0.1, "clipped_count_stddev": asked_for}
    strategy = strategy_of(
        RunConfig.from_flat(with_mechanism("client-adaptive", **keys))
    )
    assert strategy.clipped_count_stddev == used


def test_flowers_own_adaptive_norm_runs_away():
    """Evidence for the correction: with every update clipped, it shrinks further."""
    theirs = DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), 0.0, 3)
    theirs._geometric_update(1.0)
    assert theirs.clipping_norm < 0.1


def test_a_reset_keeps_the_wrapper_and_renews_what_is_inside():
    config = RunConfig.from_flat(with_mechanism("server-fixed"))
    strategy = strategy_of(config)
    inner = strategy.strategy
    assert renew(strategy, make_strategy(config, frozenset(), int)) is strategy
    assert strategy.strategy is not inner


def test_lost_variances_keep_their_last_value():
    last = {"running_var": torch.tensor([1.0, 2.0]), "w": torch.tensor([1.0])}
    noisy = {"running_var": torch.tensor([-0.5, 3.0]), "w": torch.tensor([-1.0])}
    kept = keep_variances_positive(noisy, last)
    assert torch.equal(kept["running_var"], torch.tensor([1.0, 3.0]))
    assert torch.equal(kept["w"], torch.tensor([-1.0]))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            with_mechanism("server-adaptive", noise_multiplier=0.6),
            "`privacy.noise-multiplier` is 0.6; allowed with server-adaptive and 5 "
            "clients in a round: < 0.5",
        ),
        (
            with_mechanism("client-fixed") | {"federation.strategy": "krum"},
            "`federation.strategy` is krum.*allowed with it: fedavg, fedprox",
        ),
        (
            with_mechanism("server-fixed") | {"federation.strategy": "scaffold"},
            "allowed with it: fedavg, fedprox",
        ),
        (
            with_mechanism("local") | {"federation.strategy": "scaffold"},
            "`federation.strategy` is scaffold",
        ),
    ],
)
def test_what_would_not_be_private_is_refused(changes, line):
    with pytest.raises(UserError, match=line) as error:
        strategy_of(RunConfig.from_flat(changes))
    assert "\n" not in str(error.value)


def test_the_privacy_of_the_whole_run_is_reported_for_the_named_neighbor(tmp_path):
    """With z = 1, two releases: noise / sensitivity is 1/√2; half for replacement."""
    keys = with_mechanism("client-fixed") | {"campaign.num-cycles": 2}
    campaign, _ = run_campaign(one_round(tmp_path, "a", **keys))
    report = read_run(campaign.recorder.folder).summary.privacy
    assert report["neighbor"] == "replace-one"
    assert (report["delta"], report["releases"]) == (1e-5, 2)
    assert slow_delta(report["epsilon"], 2 * np.sqrt(2)) == pytest.approx(
        1e-5, rel=1e-3
    )
    assert slow_delta(report["epsilon_zero_out"], np.sqrt(2)) == pytest.approx(
        1e-5, rel=1e-3
    )


def slow_delta(epsilon, ratio):
    """Integrate max(0, p - e^ε q) for two unit Gaussians that lie `ratio` apart."""
    x = np.linspace(-40, 40 + ratio, 4_000_001)
    p, q = (np.exp(-((x - mean) ** 2) / 2) for mean in (ratio, 0))
    surplus = np.clip(p - np.exp(epsilon) * q, 0, None) / np.sqrt(2 * np.pi)
    return float(np.trapezoid(surplus, x))


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_epsilon_is_that_of_the_integral(ratio, delta):
    epsilon = gaussian_epsilon(delta, ratio)
    assert slow_delta(epsilon, ratio) == pytest.approx(delta, rel=1e-3)
    assert gaussian_delta(epsilon, ratio) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(("ratio", "rdp"), [(2.0, 10.725), (4.0, 25.919)])
def test_epsilon_is_a_little_less_than_renyi_accounting_says(ratio, rdp):
    """With z = 1, four rounds, δ = 10⁻⁵.

    The bound, min over α of αμ²/2 + log(1 - 1/α) - log(δα)/(α - 1), is of Canonne,
    Kamath and Steinke, arXiv 2004.00010, Proposition 12.
    """
    orders = 1 + np.arange(1, 20_000) / 1000
    bound = orders * ratio**2 / 2 + np.log1p(-1 / orders)
    bound -= np.log(1e-5 * orders) / (orders - 1)
    assert bound.min() == pytest.approx(rdp, abs=1e-3)
    assert 0.9 * rdp < gaussian_epsilon(1e-5, ratio) < rdp


def test_noise_that_hides_more_than_asked_costs_nothing():
    assert gaussian_epsilon(0.1, 0.2) == 0.0
    assert gaussian_epsilon(1e-5, 300.0) > 40_000


def test_a_replaced_client_moves_the_mean_by_twice_the_norm():
    """Two updates of norm S that point in opposite directions; n = 4."""
    norm, others = 0.5, [np.array([0.1, 0.2])] * 3
    sides = [np.mean([*others, np.array([sign * norm, 0])], axis=0) for sign in (1, -1)]
    zero = np.mean([*others, np.zeros(2)], axis=0)
    assert np.linalg.norm(sides[0] - sides[1]) == pytest.approx(2 * norm / 4)
    assert np.linalg.norm(sides[0] - zero) == pytest.approx(norm / 4)


def test_releases_go_on_from_where_they_were():
    config = RunConfig.from_flat(with_mechanism("server-fixed"))
    first, second = strategy_of(config), strategy_of(config)
    first.releases = 7
    load_wrapper_memory(second, json.loads(json.dumps(wrapper_memory(first))))
    reports = [privacy_report(each, config.privacy) for each in (first, second)]
    assert reports[0] == reports[1]
    assert reports[0]["releases"] == 7


@pytest.mark.parametrize("mechanism", [m for m in MECHANISMS if m != "none"])
def test_updates_of_exactly_zero_end_no_run(tmp_path, mechanism, monkeypatch):
    """The norm of an update is divided by, on the client or the server."""
    monkeypatch.setattr(participant, "train_round", lambda *_, **__: Trained(0.0, 0))
    noise = {"noise_multiplier": 0.1} if "adaptive" in mechanism else {}
    keys = with_mechanism(mechanism, **noise)
    campaign, grid = run_campaign(one_round(tmp_path, "a", **keys))
    assert not any(message.has_error() for message in grid.replies)
    assert all(torch.isfinite(w).all() for w in campaign.state.weights.values())


def test_no_noise_is_no_privacy():
    config = RunConfig.from_flat(with_mechanism("client-fixed", noise_multiplier=0.0))
    report = privacy_report(strategy_of(config), config.privacy)
    assert report["accounting"] == "none: without noise there is no privacy"
    assert report["epsilon"] is report["epsilon_zero_out"] is None


def test_local_reports_its_own_numbers():
    report = privacy_report(SimpleNamespace(), PrivacyConfig(mechanism="local"))
    assert report["settings"]["epsilon"] == 1.0
    assert report["epsilon"] is None
    assert report["accounting"] == "none: each site counts its own releases"
