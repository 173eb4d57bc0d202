"""Differential privacy: Flower's wrappers around a strategy (docs/privacy.md).

The clients' half is `fairfal_flwr.client.mods`.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
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

from fairfal_flwr.config import PrivacyConfig, RunConfig
from fairfal_flwr.messages import METRICS, Weights
from fairfal_flwr.server.accounting import gaussian_epsilon

__all__ = [
    "EQUAL_WEIGHT",
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


class _Counting(Strategy):
    """Counts the releases: the aggregates that left with noise."""

    releases = 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        with np.errstate(divide="ignore"):  # see `_norm`
            aggregate = super().aggregate_train(server_round, replies)  # type: ignore[safe-super]
        self.releases += 1
        return aggregate


class _TowardsQuantile(DifferentialPrivacyAdaptiveBase):
    """Moves the norm to where the target share of the updates passes unclipped.

    Differentially Private Learning with Adaptive Clipping, Andrew et al., NeurIPS
    2021, arXiv 1905.03871, Algorithm 1: C <- C exp(-η (b - γ)), b the share of updates
    with norm at most C. Flower 1.42 puts the share that was clipped for b, so its norm
    runs away: down to 0 once most updates are clipped, up without end otherwise.
    """

    def _geometric_update(self, clipped_fraction: float) -> None:
        super()._geometric_update(1 - clipped_fraction)


class _ServerFixed(_Counting, DifferentialPrivacyServerSideFixedClipping): ...


class _ClientFixed(_Counting, DifferentialPrivacyClientSideFixedClipping): ...


class _ServerAdaptive(
    _Counting, _TowardsQuantile, DifferentialPrivacyServerSideAdaptiveClipping
): ...


class _ClientAdaptive(
    _Counting, _TowardsQuantile, DifferentialPrivacyClientSideAdaptiveClipping
): ...


FixedClipping = _ServerFixed | _ClientFixed
AdaptiveClipping = _ServerAdaptive | _ClientAdaptive
Wrapper = FixedClipping | AdaptiveClipping


def make_private(strategy: Strategy, config: RunConfig) -> Strategy:
    """Return the strategy inside Flower's wrapper of `privacy.mechanism`."""
    privacy, asked = config.privacy, config.clients_in_round
    if not privacy.adds_noise:
        return strategy
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
    memory: dict[str, Any] = {}
    if isinstance(strategy, Wrapper):
        memory["releases"] = strategy.releases
    if isinstance(strategy, AdaptiveClipping):
        memory["clipping-norm"] = float(strategy.clipping_norm)
    return memory


def load_wrapper_memory(strategy: Strategy, state: dict[str, Any]) -> None:
    """Let a wrapper go on from what `wrapper_memory` returned."""
    if isinstance(strategy, Wrapper):
        strategy.releases = state["releases"]
    if isinstance(strategy, AdaptiveClipping):
        strategy.clipping_norm = type(strategy.clipping_norm)(state["clipping-norm"])


def clipping_norm(strategy: Strategy) -> float:
    """Return the norm to which the updates of this round are clipped."""
    assert isinstance(strategy, Wrapper)
    return strategy.clipping_norm


def expect_replies(strategy: Strategy, number: int) -> None:
    """Fit the noise to the number of updates that are averaged.

    The mean of n updates of norm at most S moves by S / n when one of them becomes
    zero, and by 2 S / n when it becomes any other, so the noise has standard deviation
    z S / n with the n that were used.
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

    `epsilon` is the privacy of the whole run, exactly, for the `neighbor` that is
    named; `epsilon_zero_out` for a weaker one. Both are None where they cannot be told;
    `accounting` says why (docs/privacy.md).
    """
    if config.mechanism == "none":
        return None
    report: dict[str, Any] = {
        "mechanism": config.mechanism,
        "settings": config.arguments,
        "neighbor": "replace-one",
        "epsilon": None,
        "epsilon_zero_out": None,
    }
    if isinstance(strategy, Wrapper):
        report["releases"] = strategy.releases
    if isinstance(strategy, AdaptiveClipping):
        report["clipping_norm"] = float(strategy.clipping_norm)
    if not isinstance(strategy, FixedClipping):
        reason = "none: the norm adapts"
        if config.mechanism == "local":
            reason = "none: each site counts its own releases"
        return report | {"accounting": reason}
    if not config.noise_multiplier:
        return report | {"accounting": "none: without noise there is no privacy"}
    return report | _spent(config, strategy.releases)


def _spent(config: PrivacyConfig, releases: int) -> dict[str, Any]:
    """Return the privacy of some releases for both neighbors.

    A client's update, of norm at most S, moves the mean by at most 2 S / n where it is
    replaced by another, and by S / n where it is replaced by zero. The noise is
    z S / n, and k releases are one whose noise is smaller by the root of k.
    """
    zero_out = math.sqrt(releases) / config.noise_multiplier
    spent = {"epsilon": 2 * zero_out, "epsilon_zero_out": zero_out}
    return {
        **{
            name: gaussian_epsilon(config.delta, ratio) if releases else 0.0
            for name, ratio in spent.items()
        },
        "delta": config.delta,
        "accounting": "exact: composed Gaussian mechanisms, no amplification",
    }


def _fixed(strategy: Strategy, config: RunConfig, asked: int) -> Strategy:
    privacy = config.privacy
    wrappers: dict[str, type[FixedClipping]] = {
        "server-fixed": _ServerFixed,
        "client-fixed": _ClientFixed,
    }
    return wrappers[privacy.mechanism](
        strategy, privacy.noise_multiplier, _norm(privacy), asked
    )


def _norm(privacy: PrivacyConfig) -> float:
    """Return the clipping norm as Flower can divide it by the norm of an update.

    Where the server clips, an update of exactly zero would end the run with a
    ZeroDivisionError; a number of NumPy's becomes infinite, so nothing is clipped.
    """
    norm = privacy.clipping_norm
    return np.float64(norm) if privacy.mechanism.startswith("server") else norm


def _adaptive(strategy: Strategy, privacy: PrivacyConfig, asked: int) -> Strategy:
    wrappers: dict[str, type[AdaptiveClipping]] = {
        "server-adaptive": _ServerAdaptive,
        "client-adaptive": _ClientAdaptive,
    }
    return wrappers[privacy.mechanism](
        strategy,
        privacy.noise_multiplier,
        asked,
        initial_clipping_norm=_norm(privacy),
        target_clipped_quantile=privacy.target_clipped_quantile,
        clip_norm_lr=privacy.clip_norm_lr,
        clipped_count_stddev=privacy.clipped_count_stddev or None,
    )
