"""The numbers of FairFAL's rule for the model that queries; see `model_choice`."""

from dataclasses import dataclass
from typing import Annotated

from fairfal_flwr.query.options import Range, check_options, options_of

__all__ = ["AdaptiveRule"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveRule:
    """When the adaptive choice takes the global model (method §3).

    Parameters
    ----------
    threshold : float
        The global model queries where its score s = 1 - (divergence + imbalance) / 2
        exceeds this, else the local one (the paper's δ).
    balance_seed : int
        Seed of the class-balanced resampling of the labels that both models are
        compared on.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    threshold: Annotated[float, Range(ge=0, le=1)] = 0.75
    balance_seed: Annotated[int, Range(ge=0)] = 42

    def __post_init__(self) -> None:
        check_options(options_of(AdaptiveRule), vars(self))
