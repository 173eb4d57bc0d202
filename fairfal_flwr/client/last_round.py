"""What a client keeps of its last round of training: weights, and wavering predictions.

A deployed client is a new process for every message, and simulated clients share
processes, so this lives in one file per client and campaign, beside the ledger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing
from fairfal_flwr.messages import TrainRequest, Weights
from fairfal_flwr.query.registry import resolve

__all__ = [
    "LastRound",
    "LastRoundFile",
    "PredictionChanges",
    "follows_changes",
    "is_kept",
]

WEIGHT = "weight/"


@dataclass(frozen=True)
class LastRound:
    """A client's last round of training.

    Parameters
    ----------
    cycle, round : int
        When it was, counted from 1.
    weights : Weights
        The client's own, after its training.
    sample_ids : Tensor, shape (n,), int64
        Unlabeled samples whose predictions were followed, ascending; often none.
    changes : Tensor, shape (n,), int64
        How often each prediction changed between two epochs.
    """

    cycle: int
    round: int
    weights: Weights
    sample_ids: Tensor
    changes: Tensor

    def precedes(self, request: TrainRequest) -> bool:
        """Tell whether it is an earlier round of the same cycle."""
        return self.cycle == request.cycle and self.round < request.round

    def changes_of(self, sample_ids: Tensor) -> Tensor:
        """Return how often the predictions of some samples changed; 0 if not followed.

        Parameters
        ----------
        sample_ids : Tensor, shape (N,), int64
            On the CPU.
        """
        counts = torch.zeros_like(sample_ids)
        if len(self.sample_ids):
            rows = torch.searchsorted(self.sample_ids, sample_ids)
            rows = rows.clamp(max=len(self.sample_ids) - 1)
            known = self.sample_ids[rows] == sample_ids
            counts[known] = self.changes[rows[known]]
        return counts


class LastRoundFile:
    """Keeps a client's last round.

    Parameters
    ----------
    path : Path
        A safetensors file; missing until the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> LastRound | None:
        """Return what is kept, on the CPU; None before the first round."""
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            facts = file.metadata()
            tensors = {
                key: file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118 (not a mapping)
            }
        return LastRound(
            cycle=int(facts["cycle"]),
            round=int(facts["round"]),
            weights={
                key.removeprefix(WEIGHT): value
                for key, value in tensors.items()
                if key.startswith(WEIGHT)
            },
            sample_ids=tensors["sample-ids"],
            changes=tensors["changes"],
        )

    def write(self, last: LastRound) -> None:
        """Keep a round instead of the one before; a crash leaves one of them whole.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        tensors = {f"{WEIGHT}{name}": value for name, value in last.weights.items()}
        tensors |= {"sample-ids": last.sample_ids, "changes": last.changes}
        facts = {"cycle": str(last.cycle), "round": str(last.round)}
        try:
            with replacing(self.path) as path:
                whole = {
                    key: value.contiguous().cpu() for key, value in tensors.items()
                }
                save_file(whole, path, metadata=facts)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"Cannot write the weights of the last round {self.path}: {error}; set "
                "`state-dir` to a folder that can be written."
            ) from None


def is_kept(config: RunConfig, round_number: int) -> bool:
    """Tell whether anything will ask for a round: a query, or the round after.

    A query looks at the client's last round in a cycle. Where not all clients train in
    every round, any round may turn out to have been that one.
    """
    if config.train.objective == "alignment":
        return True
    name = config.query.strategy
    strategy = resolve(name)
    models = strategy.requirements(config.strategy_options(name)).models
    if "local-last" not in models and "changes" not in strategy.remembers:
        return False
    is_last = round_number == config.campaign.num_rounds
    return is_last or config.federation.fraction_train < 1


def follows_changes(config: RunConfig) -> bool:
    """Tell whether the kept rounds need the changes of predictions."""
    objective, quirks = config.train.objective, config.alignment.quirks
    aligned = objective == "alignment" and quirks == "corrected"
    return aligned or "changes" in resolve(config.query.strategy).remembers


class PredictionChanges:
    """Counts how often predictions change from one look to the next.

    CHASe calls the number the epistemic variation of a sample.

    Parameters
    ----------
    predict : callable
        Returns the predicted classes of the samples, shape (n,).
    sample_ids : Tensor, shape (n,), int64
        Who they are, on the CPU; there may be none.
    """

    def __init__(self, predict: Callable[[], Tensor], sample_ids: Tensor) -> None:
        self._predict = predict
        self._before: Tensor | None = None
        self.sample_ids = sample_ids
        self.counts = torch.zeros_like(sample_ids)

    def look(self) -> None:
        """Predict, and count what differs from the last look."""
        if not len(self.sample_ids):
            return
        now = self._predict().cpu()
        if self._before is not None:
            self.counts += now != self._before
        self._before = now
