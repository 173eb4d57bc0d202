"""SCAFFOLD on the client: gradients corrected by control variates.

SCAFFOLD: Stochastic Controlled Averaging for Federated Learning
    Sai Praneeth Karimireddy, Satyen Kale, Mehryar Mohri, Sashank J. Reddi,
    Sebastian U. Stich, Ananda Theertha Suresh. ICML 2020, arXiv 1910.06378.

The server's half is `fairfal_flwr.server.scaffold`.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairfal_flwr.client.plug import Plug, Round, gradients_of
from fairfal_flwr.client.round_files import Moment, RoundFiles
from fairfal_flwr.client.training import Trained
from fairfal_flwr.messages import TrainRequest, Weights

__all__ = ["ControlVariate", "DriftControl", "Variates", "control_drift", "step_sum"]

log = logging.getLogger("fairfal.client")


def control_drift(this: Round, model: nn.Module) -> Plug | None:
    """Return SCAFFOLD's plug where the server sent its variate."""
    request = this.request
    if request.variate is None:
        return None
    kept, used = Variates(this.ledger), request.last_accepted
    own = kept.read(used)
    if used and not own:
        log.warning(
            "client %d: no control variate of cycle %d, round %d in %s; it starts at "
            "zero",
            this.index,
            *used,
            kept.files.path(used),
        )
    variate = ControlVariate(model, request.variate, own)
    return DriftControl(variate, kept, request, momentum=this.config.train.momentum)


class ControlVariate:
    """The correction of a round, and the variate that follows from its training.

    Algorithm 1, lines 10 to 13, with the second option of line 12.

    Parameters
    ----------
    model : nn.Module
        Holds the global weights x now; only its parameters are corrected.
    server : Weights
        c, one entry per parameter.
    own : Weights
        c_k, the same; a missing entry is zero.
    """

    def __init__(self, model: nn.Module, server: Weights, own: Weights) -> None:
        self._parameters = dict(model.named_parameters())
        self._start = {n: p.detach().clone() for n, p in self._parameters.items()}
        self.own = {
            name: own[name].to(start) if name in own else torch.zeros_like(start)
            for name, start in self._start.items()
        }
        self._shift = {n: server[n].to(own) - own for n, own in self.own.items()}

    def correct(self) -> None:
        """Add c - c_k to the gradients."""
        gradients = gradients_of(list(self._parameters.values()))
        torch._foreach_add_(gradients, list(self._shift.values()))

    def updated(self, *, lr: float, steps: int, momentum: float) -> Weights:
        """Return c_k⁺ = c_k - c + (x - y_k) / (η s), s from `step_sum`.

        Parameters
        ----------
        lr : float
            η, the learning rate of this round.
        steps : int
            Optimizer steps since `model` held x; without any, c_k⁺ = c_k.
        momentum : float
            Of the optimizer.
        """
        if not steps:
            return self.own
        scale = 1 / (lr * step_sum(steps, momentum))
        return {
            name: (self._start[name] - y.detach()) * scale - self._shift[name]
            for name, y in self._parameters.items()
        }


class DriftControl(Plug):
    """Corrects the steps of a round, keeps the new variate and sends its change.

    Parameters
    ----------
    variate : ControlVariate
        Of this round.
    kept : Variates
        Where the client's variates are.
    request : TrainRequest
        Says the learning rate, and how far back the server can go.
    momentum : float
        Of the optimizer.
    """

    def __init__(
        self,
        variate: ControlVariate,
        kept: "Variates",
        request: TrainRequest,
        *,
        momentum: float,
    ) -> None:
        self.variate = variate
        self._kept = kept
        self._request = request
        self._momentum = momentum

    def correct(self) -> None:
        """Add c - c_k to the gradients."""
        self.variate.correct()

    def finish(self, trained: Trained) -> dict[str, Any]:
        """Keep c_k⁺ beside c_k; the reply gets `variate`, c_k⁺ - c_k."""
        own, request = self.variate.own, self._request
        new = self.variate.updated(
            lr=request.lr, steps=trained.steps, momentum=self._momentum
        )
        if trained.steps:
            self._kept.write(request.moment, new)
            self._kept.prune(request.checkpoint, request.last_accepted)
        return {"variate": {name: new[name] - own[name] for name in own}}


class Variates:
    """The variates that a client's updates left, as far back as the server can go.

    A reply may be lost or dropped, and the server's mean of all variates is right only
    if client and server agree which updates count. So the server says which it used
    last.

    Parameters
    ----------
    ledger : Path
        The client's; the files are beside it.
    """

    def __init__(self, ledger: Path) -> None:
        self.files = RoundFiles(ledger, "variate", "the control variate")

    def read(self, used: Moment | None) -> Weights:
        """Return the variate after an update; empty, hence zero, if there is none.

        Parameters
        ----------
        used : tuple of int
            Cycle and round of the update; None stands for the start.
        """
        return (used and self.files.read(used)) or {}

    def write(self, moment: Moment, variate: Weights) -> None:
        """Keep the variate of the update that is about to be sent.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        self.files.write(moment, variate)

    def prune(self, checkpoint: Moment, used: Moment | None) -> None:
        """Forget what no server will name again: it cannot go behind its checkpoint.

        While the last update that it used is not newer than the checkpoint, that one
        alone of all up to there can be named.
        """
        if used is None or used <= checkpoint:
            moments = self.files.moments()
            self.files.forget(m for m in moments if m <= checkpoint and m != used)


def step_sum(steps: int, momentum: float) -> float:
    """Return s = Σ_{j=1..K} (1 - m^j) / (1 - m): how far K steps go along a gradient.

    Momentum repeats each gradient: with v_t = m v_{t-1} + g the displacement under a
    constant g is η g s, and s = K for m = 0. Dividing by η K instead makes the variates
    up to 1 / (1 - m) times too large, and their errors grow once that is more than 2.

    Examples
    --------
    >>> step_sum(3, 0.0)
    3.0
    >>> step_sum(2, 0.5)  # 1 + 1.5
    2.5
    """
    return sum((1 - momentum**j) / (1 - momentum) for j in range(1, steps + 1))
