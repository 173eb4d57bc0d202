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
from fairfal_flwr.client.tensor_file import read_tensors, write_tensors
from fairfal_flwr.client.training import Trained
from fairfal_flwr.messages import Weights

__all__ = ["ControlVariate", "DriftControl", "VariateFile", "control_drift", "step_sum"]

log = logging.getLogger("fairfal.client")


def control_drift(this: Round, model: nn.Module) -> Plug | None:
    """Return SCAFFOLD's plug where the server sent its variate."""
    request = this.request
    if request.variate is None:
        return None
    file = VariateFile(this.file("variate"))
    own = file.read(request.accepted)
    if request.accepted and not own:
        log.warning(
            "client %d: no control variate of round %s in %s; it starts at zero",
            this.index,
            request.accepted,
            file.path,
        )
    variate = ControlVariate(model, request.variate, own)
    return DriftControl(
        variate,
        file,
        lr=request.lr,
        momentum=this.config.train.momentum,
        used=request.accepted,
        new=str(request.server_round),
    )


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
    file : VariateFile
        Where the client's variates are.
    lr, momentum : float
        Of the optimizer.
    used, new : str
        Names of the update that the variate comes from and of the one about to be sent.
    """

    def __init__(
        self,
        variate: ControlVariate,
        file: "VariateFile",
        *,
        lr: float,
        momentum: float,
        used: str,
        new: str,
    ) -> None:
        self.variate = variate
        self._file = file
        self._lr, self._momentum = lr, momentum
        self._used, self._new = used, new

    def correct(self) -> None:
        """Add c - c_k to the gradients."""
        self.variate.correct()

    def finish(self, trained: Trained) -> dict[str, Any]:
        """Keep c_k⁺ beside c_k; the reply gets `variate`, c_k⁺ - c_k."""
        own = self.variate.own
        new = self.variate.updated(
            lr=self._lr, steps=trained.steps, momentum=self._momentum
        )
        if trained.steps:
            self._file.write(used=(self._used, own), new=(self._new, new))
        return {"variate": {name: new[name] - own[name] for name in own}}


class VariateFile:
    """Keeps the last variate that the server is known to have used, and the one after.

    A reply may be lost or dropped, and the server's mean of all variates is right only
    if client and server agree which updates count. So each update has a name, the
    server says which one it used last, and everything newer is forgotten.

    Parameters
    ----------
    path : Path
        The file, a safetensors file; missing until the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> Weights:
        """Return the variate of an update; empty, hence zero, if there is none.

        Parameters
        ----------
        name : str
            The update; "" stands for the start.
        """
        kept = read_tensors(self.path) if name else None
        if kept is None:
            return {}
        tensors, names = kept
        slot = next((s for s, held in names.items() if held == name), None)
        prefix = f"{slot}/"
        return {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }

    def write(self, used: tuple[str, Weights], new: tuple[str, Weights]) -> None:
        """Keep two variates with the names of their updates, and forget all others.

        Parameters
        ----------
        used : tuple of str and Weights
            The update that the server used last.
        new : tuple of str and Weights
            The update that is about to be sent.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        slots = {"used": used, "new": new}
        tensors = {
            f"{slot}/{key}": value
            for slot, (_, weights) in slots.items()
            for key, value in weights.items()
        }
        names = {slot: name for slot, (name, _) in slots.items()}
        write_tensors(self.path, "the control variate", tensors, names)


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
