"""The plug that keeps a round for the query, or the round, that will ask for it."""

from typing import Any

from fairfal_flwr.client.last_round import LastRound, LastRounds
from fairfal_flwr.client.objectives import objective_of
from fairfal_flwr.client.plug import Plug, Round
from fairfal_flwr.client.training import Trained
from fairfal_flwr.config import RunConfig
from fairfal_flwr.models import Classifier
from fairfal_flwr.query.memory import Watches
from fairfal_flwr.query.registry import resolve

__all__ = ["KeepRound", "is_kept", "keep_round", "watches_of"]


def keep_round(this: Round, model: Classifier) -> Plug | None:
    """Return the plug where something will ask for this round."""
    number = this.request.round
    if not is_kept(this.config, number):
        return None
    return KeepRound(this, model, watches_of(this.config, number))


def is_kept(config: RunConfig, round_number: int) -> bool:
    """Tell whether anything will ask for a round: a query, or the round after."""
    if objective_of(config).needs_last_round:
        return True
    if not _may_be_the_last(config, round_number):
        return False
    name = config.query.strategy
    models = resolve(name).requirements(config.strategy_options(name)).models
    return "local-last" in models or bool(_watches_of_query(config))


def watches_of(config: RunConfig, round_number: int) -> Watches:
    """Return what follows the pool in a round that is kept, by the memory's name."""
    for_next_round = objective_of(config).watches(config)
    if not _may_be_the_last(config, round_number):
        return for_next_round
    return {**_watches_of_query(config), **for_next_round}


def _watches_of_query(config: RunConfig) -> Watches:
    remembered = resolve(config.query.strategy).remembers
    return {name: make for name, make in remembered.items() if make is not None}


def _may_be_the_last(config: RunConfig, round_number: int) -> bool:
    """Tell whether a query may find this round to be the client's last of its cycle.

    Where not all clients train in every round, any round may turn out to be that one.
    """
    is_last = round_number == config.campaign.num_rounds
    return is_last or config.federation.fraction_train < 1


class KeepRound(Plug):
    """Feeds the watches after every epoch and writes the round down at its end.

    Parameters
    ----------
    this : Round
        The round.
    model : Classifier
        The network that is trained.
    watches : Mapping of str to callable
        Each builds a `Watch` of the samples that the next query will be shown.
    """

    def __init__(self, this: Round, model: Classifier, watches: Watches) -> None:
        self._this = this
        self._model = model
        positions = this.holdings.pool[:0]
        if watches:
            positions = this.pool.shown(this.request.cycle + 1).pool
        self._positions = positions
        self._watches = {name: make(len(positions)) for name, make in watches.items()}

    def end_epoch(self) -> None:
        """Let the watches look at what the model makes of the pool."""
        if not len(self._positions):
            return
        probs = self._this.networks.outputs(self._model, self._positions).probs
        for watch in self._watches.values():
            watch.look(probs)

    def finish(self, trained: Trained) -> dict[str, Any]:
        """Write the round down; the reply stays as it is."""
        request = self._this.request
        last = LastRound(
            *request.moment,
            weights=self._model.state_dict(),
            sample_ids=self._this.pool.sample_ids(self._positions),
            watched={n: w.values.cpu().numpy() for n, w in self._watches.items()},
        )
        LastRounds(self._this.ledger).write(last, request.checkpoint)
        return {}
