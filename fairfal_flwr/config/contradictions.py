"""What cannot go together although each key alone is right."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairfal_flwr.config.run import RunConfig

__all__ = ["contradictions"]

_MEANS = ("fedavg", "fedprox")


def contradictions(config: "RunConfig") -> list[str]:
    """Return what in a config cannot be done, one clause for each."""
    return [line for rule in _RULES for line in rule(config)]


def _too_few_clients(config: "RunConfig") -> Iterator[str]:
    federation = config.federation
    name, hostile = federation.strategy, federation.num_malicious_nodes
    asked, least = (
        config.clients_in_round,
        federation.aggregation.least_replies(hostile),
    )
    selected = federation.num_nodes_to_select
    if asked < least:
        yield (
            f"`federation.strategy` is {name}, which needs {least} clients in a round "
            f"to withstand {hostile} hostile ones (`federation.num-malicious-nodes`), "
            f"found {asked} of {config.num_clients}; raise `num-clients` or "
            "`federation.fraction-train`"
        )
    elif name == "multikrum" and selected > asked - hostile:
        yield (
            f"`federation.num-nodes-to-select` is {selected}; allowed: 1 to "
            f"{asked - hostile}, the round's clients less the hostile ones"
        )


def _not_private(config: "RunConfig") -> Iterator[str]:
    name, mechanism = config.federation.strategy, config.privacy.mechanism
    if config.privacy.adds_noise and name not in _MEANS:
        yield (
            f"`federation.strategy` is {name}, but the noise of `privacy.mechanism` "
            f"{mechanism} is made for a mean; allowed with it: {', '.join(_MEANS)}"
        )
    if mechanism == "local" and name == "scaffold":
        yield (
            "`federation.strategy` is scaffold, whose control variates "
            "`privacy.mechanism` local would leave unprotected; allowed: all others"
        )


def _too_much_noise(config: "RunConfig") -> Iterator[str]:
    privacy, asked = config.privacy, config.clients_in_round
    most = 2 * (privacy.clipped_count_stddev or asked / 20)
    if privacy.mechanism.endswith("adaptive") and privacy.noise_multiplier >= most:
        yield (
            f"`privacy.noise-multiplier` is {privacy.noise_multiplier}; allowed with "
            f"{privacy.mechanism} and {asked} clients in a round: < {most:g}, "
            "twice `privacy.clipped-count-stddev`"
        )


def _nobody_tests(config: "RunConfig") -> Iterator[str]:
    if not config.data.server_test and not config.federation.fraction_evaluate:
        yield (
            "`data.server-test` is false and `federation.fraction-evaluate` is 0, so "
            "nobody would test the model; set the latter to 1"
        )


_RULES: tuple[Callable[["RunConfig"], Iterator[str]], ...] = (
    _too_few_clients,
    _not_private,
    _too_much_noise,
    _nobody_tests,
)
