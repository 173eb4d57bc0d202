"""Differential privacy: Flower's wrappers around a strategy (docs/privacy.md).

The clients' half is `fairfal_flwr.client.mods`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import Message
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)
from flwr.serverapp.strategy.dp_adaptive_clipping import (
    DifferentialPrivacyAdaptiveBase,
)
from flwr.supercore.privacy_accounting import (
    NeighboringRelation,
    PrivacyAccountant,
    SamplingMethod,
)
from flwr.supercore.privacy_accounting import PrivacyConfig as AccountingConfig
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

from fairfal_flwr.config import PrivacyConfig, RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import METRICS, Weights
from fairfal_flwr.server.sampling import round_size

__all__ = [
    "EQUAL_WEIGHT",
    "adds_noise",
    "clipping_norm",
    "expect_replies",
    "keep_variances_positive",
    "load_wrapper_memory",
    "make_private",
    "privacy_report",
    "renew",
    "unwrapped",
    "weigh_equally",
    "wrapper_memory",
]

EQUAL_WEIGHT = "equal-weight"


class _TowardsQuantile(DifferentialPrivacyAdaptiveBase):
    """Moves the norm to where the target share of the updates passes unclipped.

    Differentially Private Learning with Adaptive Clipping, Andrew et al., NeurIPS
    2021, arXiv 1905.03871, Algorithm 1: C <- C exp(-η (b - γ)), b the share of updates
    with norm at most C. Flower 1.42 puts the share that was clipped for b, so its norm
    runs away: down to 0 once most updates are clipped, up without end otherwise.
    """

    def _geometric_update(self, clipped_fraction: float) -> None:
        super()._geometric_update(1 - clipped_fraction)


class _ServerAdaptive(
    _TowardsQuantile, DifferentialPrivacyServerSideAdaptiveClipping
): ...


class _ClientAdaptive(
    _TowardsQuantile, DifferentialPrivacyClientSideAdaptiveClipping
): ...


FixedClipping = (
    DifferentialPrivacyServerSideFixedClipping
    | DifferentialPrivacyClientSideFixedClipping
)
AdaptiveClipping = _ServerAdaptive | _ClientAdaptive
Wrapper = FixedClipping | AdaptiveClipping


def adds_noise(config: PrivacyConfig) -> bool:
    """Tell whether the server adds the noise, to a mean with equal weights."""
    return config.mechanism not in ("none", "local")


def make_private(strategy: Strategy, config: RunConfig) -> Strategy:
    """Return the strategy inside Flower's wrapper of `privacy.mechanism`.

    Raises
    ------
    UserError
        If strategy and mechanism do not go together.
    """
    privacy = config.privacy
    _refuse_unsound_pairs(config)
    if not adds_noise(privacy):
        return strategy
    asked = round_size(config.federation.fraction_train, config.num_clients)
    if privacy.mechanism.endswith("fixed"):
        return _fixed(strategy, config, asked)
    return _adaptive(strategy, privacy, asked)


def renew(strategy: Strategy, inner: Strategy) -> Strategy:
    """Return the wrapper of `strategy`, if it is one, around another strategy."""
    if isinstance(strategy, Wrapper):
        strategy.strategy = inner
        return strategy
    return inner


def unwrapped(strategy: Strategy) -> Strategy:
    """Return the strategy inside a wrapper, or itself."""
    return strategy.strategy if isinstance(strategy, Wrapper) else strategy


def wrapper_memory(strategy: Strategy) -> dict[str, Any]:
    """Return what a wrapper remembers, as JSON can hold it; empty without one."""
    if isinstance(strategy, AdaptiveClipping):
        return {"clipping-norm": strategy.clipping_norm}
    accountant = getattr(strategy, "accountant", None)
    return {"accountant": accountant.state_dict()} if accountant else {}


def load_wrapper_memory(strategy: Strategy, state: dict[str, Any]) -> None:
    """Let a wrapper go on from what `wrapper_memory` returned."""
    if isinstance(strategy, AdaptiveClipping):
        strategy.clipping_norm = state["clipping-norm"]
    elif "accountant" in state and isinstance(strategy, FixedClipping):
        assert isinstance(strategy.accountant, RdpAccountant)
        strategy.accountant.load_state_dict(state["accountant"])


def clipping_norm(strategy: Strategy) -> float:
    """Return the norm to which the updates of this round are clipped."""
    assert isinstance(strategy, Wrapper)
    return strategy.clipping_norm


def expect_replies(strategy: Strategy, number: int) -> None:
    """Fit the noise to the number of updates that are averaged.

    The mean of n updates of norm at most S moves by S / n when one of them changes, so
    the noise must have standard deviation z S / n with the n that were used.
    """
    if isinstance(strategy, Wrapper):
        strategy.num_sampled_clients = number


def weigh_equally(replies: Iterable[Message]) -> None:
    """Give all replies the same weight: the noise is made for a plain mean."""
    for reply in replies:
        reply.content.metric_records[METRICS][EQUAL_WEIGHT] = 1


def keep_variances_positive(noisy: Weights, last: Weights) -> Weights:
    """Return the weights with the last variance wherever noise left none.

    BatchNorm takes the root of its running variances. Both inputs are public, so this
    costs no privacy.
    """
    return {
        name: torch.where(value > 0, value, last[name])
        if name.endswith("running_var")
        else value
        for name, value in noisy.items()
    }


def privacy_report(strategy: Strategy, config: PrivacyConfig) -> dict[str, Any] | None:
    """Return what summary.json says about privacy; None where none was asked for.

    `epsilon` is the privacy of the whole run by Flower's accountant, None where it
    has no answer; `accountant` says why.
    """
    if config.mechanism == "none":
        return None
    report: dict[str, Any] = {
        "mechanism": config.mechanism,
        "settings": config.arguments,
    }
    if isinstance(strategy, FixedClipping):
        spent = strategy.privacy_spent()
        if spent is None:
            reason = "none: it needs dp-accounting, pip install 'flwr[dp]'"
            if not config.noise_multiplier:
                reason = "none: without noise there is no privacy"
            return report | {"epsilon": None, "accountant": reason}
        return report | {
            "epsilon": spent.epsilon,
            "delta": spent.delta,
            "releases": spent.num_releases,
            "accountant": spent.accounting_method,
        }
    reason = "none: Flower accounts for fixed clipping on the server's side only"
    report |= {"epsilon": None, "accountant": reason}
    if isinstance(strategy, AdaptiveClipping):
        report["clipping_norm"] = strategy.clipping_norm
    return report


def _fixed(strategy: Strategy, config: RunConfig, asked: int) -> Strategy:
    wrappers: dict[str, type[FixedClipping]] = {
        "server-fixed": DifferentialPrivacyServerSideFixedClipping,
        "client-fixed": DifferentialPrivacyClientSideFixedClipping,
    }
    return wrappers[config.privacy.mechanism](
        strategy,
        config.privacy.noise_multiplier,
        config.privacy.clipping_norm,
        asked,
        accountant=_accountant(config),
    )


def _accountant(config: RunConfig) -> PrivacyAccountant | None:
    """Return Flower's accountant; None without noise or without dp-accounting."""
    if not config.privacy.noise_multiplier:
        return None
    accounting = AccountingConfig(
        target_delta=config.privacy.delta,
        population_size=config.num_clients,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    try:
        return RdpAccountant(accounting)
    except ImportError:
        return None


def _adaptive(strategy: Strategy, privacy: PrivacyConfig, asked: int) -> Strategy:
    wrappers: dict[str, type[AdaptiveClipping]] = {
        "server-adaptive": _ServerAdaptive,
        "client-adaptive": _ClientAdaptive,
    }
    stddev = privacy.clipped_count_stddev or asked / 20
    if privacy.noise_multiplier >= 2 * stddev:
        raise UserError(
            f"`privacy.noise-multiplier` is {privacy.noise_multiplier}; allowed with "
            f"{privacy.mechanism} and {asked} clients in a round: < {2 * stddev:g}, "
            "twice `privacy.clipped-count-stddev`."
        )
    return wrappers[privacy.mechanism](
        strategy,
        privacy.noise_multiplier,
        asked,
        initial_clipping_norm=privacy.clipping_norm,
        target_clipped_quantile=privacy.target_clipped_quantile,
        clip_norm_lr=privacy.clip_norm_lr,
        clipped_count_stddev=privacy.clipped_count_stddev or None,
    )


def _refuse_unsound_pairs(config: RunConfig) -> None:
    name, mechanism = config.federation.strategy, config.privacy.mechanism
    if adds_noise(config.privacy) and name not in ("fedavg", "fedprox"):
        raise UserError(
            f"`federation.strategy` is {name}, but the noise of `privacy.mechanism` "
            f"{mechanism} is made for a mean; allowed with it: fedavg, fedprox."
        )
    if mechanism == "local" and name == "scaffold":
        raise UserError(
            "`federation.strategy` is scaffold, whose control variates "
            "`privacy.mechanism` local would leave unprotected; allowed: all others."
        )
