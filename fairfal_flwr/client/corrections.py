"""Corrections of the local gradient: what federated optimizers change in the loop.

Each is a function that `train_round` calls between backward pass and step, and that
adds to the gradients in place.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairfal_flwr.messages import Weights

__all__ = ["ControlVariate", "proximal_pull", "step_sum"]


def proximal_pull(model: nn.Module, mu: float) -> Callable[[], None] | None:
    """Return FedProx's correction, the gradient of (μ/2) |w - w_G|²: add μ (w - w_G).

    Federated Optimization in Heterogeneous Networks, Li et al., MLSys 2020, arXiv
    1812.06127, Equation 2. The norm is squared; the code in the docstring of Flower's
    FedProx takes the norms themselves, whose gradient does not fade near w_G.

    Parameters
    ----------
    model : nn.Module
        Holds the global weights w_G now, and the local weights w when it is called.
    mu : float
        μ >= 0; with 0 there is nothing to correct, hence None.
    """
    if not mu:
        return None
    parameters: list[Tensor] = list(model.parameters())
    anchors = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def correct() -> None:
        gradients = _gradients(parameters)
        torch._foreach_add_(gradients, parameters, alpha=mu)
        torch._foreach_add_(gradients, anchors, alpha=-mu)

    return correct


class ControlVariate:
    """SCAFFOLD's correction, and the variate that follows from a round's training.

    SCAFFOLD, Karimireddy et al., ICML 2020, arXiv 1910.06378, Algorithm 1, lines 10 to
    13, with the second option of line 12.

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
        gradients = _gradients(list(self._parameters.values()))
        torch._foreach_add_(gradients, list(self._shift.values()))

    def updated(self, *, lr: float, steps: int, momentum: float) -> Weights:
        """Return c_k⁺ = c_k - c + (x - y_k) / (η s), s from `step_sum`.

        Parameters
        ----------
        lr : float
            η, the learning rate of this round.
        steps : int
            Optimizer steps since `model` held x.
        momentum : float
            Of the optimizer.
        """
        scale = 1 / (lr * step_sum(steps, momentum))
        return {
            name: (self._start[name] - y.detach()) * scale - self._shift[name]
            for name, y in self._parameters.items()
        }


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


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
