"""All plugs there are; each takes part where request or config ask for it."""

from fairfal_flwr.client.keep_round import keep_round
from fairfal_flwr.client.plug import MakePlug, Plug, Round
from fairfal_flwr.client.proximal import pull_to_global
from fairfal_flwr.client.scaffold import control_drift
from fairfal_flwr.models import Classifier

__all__ = ["plugs_of"]

PLUGS: tuple[MakePlug, ...] = (pull_to_global, control_drift, keep_round)


def plugs_of(this: Round, model: Classifier) -> list[Plug]:
    """Return the plugs that take part in a round.

    Parameters
    ----------
    this : Round
        The round.
    model : Classifier
        The network that will be trained; it holds the global weights now.
    """
    made = (make(this, model) for make in PLUGS)
    return [plug for plug in made if plug is not None]
