"""The objectives by name, and what each needs beside the batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import Objective
from fairfal_flwr.config import RunConfig
from fairfal_flwr.query.memory import Watches
from fairfal_flwr.query.options import Option, options_of

__all__ = ["OBJECTIVES", "RegisteredObjective", "objective", "objective_of"]

MakeObjective = Callable[..., Objective]


def _no_watches(**_: Any) -> Watches:
    return {}


@dataclass(frozen=True)
class RegisteredObjective:
    """An objective and what it needs.

    Parameters
    ----------
    name : str
        As in `train.objective`; its options are the section of this name.
    function : callable
        ``(round, **options) -> Objective``, called once a round.
    needs_last_round : bool
        Whether it asks for the client's previous round.
    require_watches : callable
        Of its options: what must follow the pool while the client trains, by the name
        of the memory.
    """

    name: str
    function: MakeObjective
    needs_last_round: bool
    require_watches: Callable[..., Watches]

    @cached_property
    def options(self) -> dict[str, Option]:
        """The keyword options of the function, in the order declared."""
        return options_of(self.function)

    def make(self, this: Round) -> Objective:
        """Return the loss of a round's mini-batches."""
        return self.function(this, **self._values(this.config))

    def watches(self, config: RunConfig) -> Watches:
        """Return what must follow the pool, by the name of the memory."""
        return self.require_watches(**self._values(config))

    def _values(self, config: RunConfig) -> dict[str, Any]:
        if not self.options:
            return {}
        section = getattr(config, self.name.replace("-", "_"))
        return {name: getattr(section, name) for name in self.options}


OBJECTIVES: dict[str, RegisteredObjective] = {}


def objective(
    name: str,
    *,
    needs_last_round: bool = False,
    watches: Callable[..., Watches] = _no_watches,
) -> Callable[[MakeObjective], MakeObjective]:
    """Register the decorated function as an objective.

    Parameters
    ----------
    name, needs_last_round, watches
        See `RegisteredObjective`.
    """

    def register(function: MakeObjective) -> MakeObjective:
        assert name not in OBJECTIVES, f"two objectives are named {name}"
        OBJECTIVES[name] = RegisteredObjective(
            name, function, needs_last_round, watches
        )
        return function

    return register


def objective_of(config: RunConfig) -> RegisteredObjective:
    """Return the objective of a run."""
    return OBJECTIVES[config.train.objective]
