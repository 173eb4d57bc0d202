"""What a site lets a run do: read from its own host, never from the run.

The server writes the run config and every request; a policy is the word of the host's
owner (docs/security.md). It is a TOML file that the node config's key `policy` names,
or else the environment variable `FAIRFAL_POLICY`.
"""

import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, ValidationError

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.site_book import SiteBook
from fairfal_flwr.config import RunConfig
from fairfal_flwr.config.generated import STRATEGIES
from fairfal_flwr.config.mistakes import explain
from fairfal_flwr.config.privacy import MECHANISMS, PrivacyConfig
from fairfal_flwr.config.query import QueryConfig
from fairfal_flwr.config.section import OneOf, Section
from fairfal_flwr.errors import RefusalError, UserError
from fairfal_flwr.messages import EvaluateRequest, Request, SelectRequest

__all__ = ["Policy", "default_policy", "find_policy"]

Texts = Annotated[tuple[str, ...], Strict(False)]
Mechanism = Annotated[str, OneOf(tuple(MECHANISMS))]
WARM_UP = "random"  # the first cycle's strategy, and of a client without a label
BUILT_IN = "built-in"


class Policy(Section):
    """What a run may do on this host; the defaults are those of a deployed site.

    Raises
    ------
    RefusalError
        Each method, where the policy or the run's own config forbids what is asked.
    """

    strategies: Texts = (BUILT_IN,)
    data_roots: Texts = ()
    weights_roots: Texts = ()
    state_roots: Texts = ()
    labels_per_cycle: int | None = Field(None, ge=0)
    labels: int | None = Field(None, ge=0)
    missed_cycles: int | None = Field(1, ge=0)
    evaluation: bool = False
    privacy: Annotated[tuple[Mechanism, ...], Strict(False)] = tuple(MECHANISMS)
    epsilon: float | None = Field(None, gt=0)
    noisy_releases: int | None = Field(100, ge=0)
    errors: Literal["category", "full"] = "category"

    def admit_strategy(self, run_config: Mapping[str, Any]) -> None:
        """Check what would be imported, before the config is parsed, which does it."""
        name = run_config.get("query.strategy", QueryConfig().strategy)
        known = name == WARM_UP or (name in STRATEGIES and BUILT_IN in self.strategies)
        if not (known or any(fnmatchcase(str(name), own) for own in self.strategies)):
            raise _refusal("strategies", f"the run's `query.strategy` is {name!r:.100}")

    def admit_config(self, config: RunConfig, data_path: str) -> None:
        """Check the places that the run names, and its privacy."""
        places = {
            "data-dir": ("" if data_path else config.data_dir, self.data_roots),
            "model.weights": (config.model.weights, self.weights_roots),
            "state-dir": (config.state_dir, self.state_roots),
        }
        for key, (place, roots) in places.items():
            if place and not _is_below(place, roots):
                rule = f"{key.split('-')[0].split('.')[-1]}-roots"
                raise _refusal(rule, f"the run's `{key}` lies elsewhere")
        mechanism = config.privacy.mechanism
        if mechanism not in self.privacy:
            raise _refusal("privacy", f"the run's `privacy.mechanism` is {mechanism}")
        if mechanism == "local" and self.epsilon is not None:
            self._admit_epsilon(config.privacy, self.epsilon)

    def admit_request(self, request: Request, config: RunConfig) -> None:
        """Check a request against the run's own config, and what the site lets out."""
        campaign = config.campaign
        limits = {"cycle": campaign.num_cycles, "round": campaign.num_rounds}
        for name, most in limits.items():
            number = getattr(request, name, None)
            if number is not None and number > most:
                raise _nonsense(name, number, f"1 to {most}")
        if isinstance(request, SelectRequest):
            name, allowed = request.strategy, (WARM_UP, config.query.strategy)
            if name not in allowed:
                raise _nonsense("strategy", name, ", ".join(allowed))
        if isinstance(request, EvaluateRequest) and not self.evaluation:
            raise _refusal("evaluation", "the run asks for counts of test images")

    def admit_cycle(self, request: Request, ledger: Ledger) -> None:
        """Check that a request's cycle follows the last one that the ledger knows."""
        cycle, last = getattr(request, "cycle", None), ledger.last_cycle()
        if cycle is None:
            return
        missed = cycle - last - 1
        if self.missed_cycles is not None and missed > self.missed_cycles:
            raise _refusal("missed-cycles", f"cycle {cycle} would leave out {missed}")
        selects = isinstance(request, SelectRequest)
        if selects and cycle < last and not ledger.knows_cycle(cycle):
            raise RefusalError(
                f"the request's cycle is {cycle}; allowed: {last} or later"
            )

    def admit_labels(self, request: SelectRequest, number: int, book: SiteBook) -> None:
        """Check how many labels a cycle asks for, and that they are not too many."""
        most = self.labels_per_cycle
        if most is not None and number > most:
            raise _refusal("labels-per-cycle", f"the run asks for {number} in a cycle")
        if self.labels is not None:
            book.ask_labels(request.campaign, request.cycle, number, self.labels)

    @staticmethod
    def _admit_epsilon(privacy: PrivacyConfig, most: float) -> None:
        """Check a local release's ε, and that it is that of two opposite updates."""
        if privacy.epsilon > most:
            raise _refusal(
                "epsilon", f"the run's `privacy.epsilon` is {privacy.epsilon}"
            )
        if 0 < privacy.sensitivity < 2 * privacy.clipping_norm:
            raise _refusal("epsilon", "the run's `privacy.sensitivity` is too small")


# In a simulation the run's owner is the host's owner, and decides by the run config.
OWN_HOST = Policy(
    strategies=("*",),
    data_roots=("/",),
    weights_roots=("/",),
    state_roots=("/",),
    missed_cycles=None,
    evaluation=True,
    noisy_releases=None,
    errors="full",
)


def find_policy(node_config: Mapping[str, Any]) -> Policy:
    """Return this host's policy.

    Parameters
    ----------
    node_config : Mapping[str, Any]
        Of the SuperNode; its key `policy` is a file.

    Raises
    ------
    UserError
        If the file that is named cannot be read.
    """
    place = str(node_config.get("policy", "")) or os.environ.get("FAIRFAL_POLICY", "")
    if not place:
        return default_policy()
    try:
        values = tomllib.loads(Path(place).expanduser().read_text(encoding="utf-8"))
        return Policy.model_validate(values)
    except ValidationError as error:
        fields = {field.alias or "": field for field in Policy.model_fields.values()}
        problems = "; ".join(explain(detail, fields) for detail in error.errors())
        raise UserError(f"The policy {place}: {problems}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the policy {place}: {error}.") from None


def default_policy() -> Policy:
    """Return the policy of a host that has none: strict, except in a simulation."""
    return OWN_HOST if _is_simulated() else Policy()


def _is_simulated() -> bool:
    """Tell whether the run's server is on this host, as this user.

    It is where clients are Ray's actors, and where the server is in this very process.
    Both are facts of the process, which no run config brings about.
    """
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized()) or "fairfal_flwr.server" in sys.modules


def _is_below(place: str, roots: Iterable[str]) -> bool:
    path = Path(place).expanduser().resolve()
    return any(path.is_relative_to(Path(root).expanduser().resolve()) for root in roots)


def _refusal(rule: str, found: str) -> RefusalError:
    return RefusalError(f"the site's policy, `{rule}`: {found}")


def _nonsense(name: str, found: object, allowed: str) -> RefusalError:
    return RefusalError(f"the request's {name} is {found!r:.100}; allowed: {allowed}")
