"""Differential privacy by config: clipping, noise, refusals, and what is reported."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAvg,
)
from flwr.supercore.privacy_accounting import PrivacySpent
from grid import InProcessGrid, run_campaign, small, strategy_of

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import PrivacyConfig, RunConfig
from fairfal_flwr.config.privacy import MECHANISMS
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import unpack_weights
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server import privacy
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.privacy import (
    keep_variances_positive,
    privacy_report,
    renew,
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
    assert "accountant" in report


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
    _, again = trained(run_campaign(one_round(tmp_path, "b", **keys))[1])
    assert not torch.equal(again[0]["head.weight"], replies[0]["head.weight"])


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
    """C <- C exp(-η (b - γ)), b = 1 - clipped, η = 0.2, γ = 0.7."""
    keys = {"noise_multiplier": 0.1, "target_clipped_quantile": 0.7}
    strategy = strategy_of(RunConfig.from_flat(with_mechanism(mechanism, **keys)))
    strategy._geometric_update(clipped)
    assert strategy.clipping_norm == pytest.approx(np.exp(-0.2 * (0.3 - clipped)))


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


def test_without_an_accountant_the_report_says_so(monkeypatch):
    def absent(_):
        raise ImportError

    monkeypatch.setattr(privacy, "RdpAccountant", absent)
    config = RunConfig.from_flat(with_mechanism("server-fixed"))
    report = privacy_report(strategy_of(config), config.privacy)
    assert report["epsilon"] is None
    assert "pip install 'flwr[dp]'" in report["accountant"]
    assert report["settings"]["noise_multiplier"] == 1.0


def test_with_an_accountant_the_privacy_spent_is_reported(tmp_path, monkeypatch):
    class Counting:
        def __init__(self, config):
            self.config = config
            self.releases = 0

        def compose(self, event):
            assert event.noise_multiplier == 1.0
            self.releases += 1

        def get_privacy_spent(self):
            return PrivacySpent(2.5, self.config.target_delta, self.releases, "rdp")

    monkeypatch.setattr(privacy, "RdpAccountant", Counting)
    keys = with_mechanism("client-fixed") | {"campaign.num-cycles": 2}
    campaign, _ = run_campaign(one_round(tmp_path, "a", **keys))
    summary = read_run(campaign.recorder.folder).summary
    spent = {"epsilon": 2.5, "delta": 1e-5, "releases": 2, "accountant": "rdp"}
    assert summary.privacy.items() >= spent.items()


def test_flowers_own_accountant_counts_the_whole_run(tmp_path):
    pytest.importorskip("dp_accounting")
    keys = with_mechanism("server-fixed") | {"campaign.num-cycles": 2}
    campaign, _ = run_campaign(one_round(tmp_path, "a", **keys))
    report = campaign.federation.privacy_report()
    assert report["releases"] == 2
    assert 0 < report["epsilon"] < 20


def test_no_noise_is_no_privacy():
    config = RunConfig.from_flat(with_mechanism("client-fixed", noise_multiplier=0.0))
    report = privacy_report(strategy_of(config), config.privacy)
    assert report["accountant"] == "none: without noise there is no privacy"


def test_local_reports_its_own_numbers():
    report = privacy_report(SimpleNamespace(), PrivacyConfig(mechanism="local"))
    assert report["settings"]["epsilon"] == 1.0
    assert report["epsilon"] is None
