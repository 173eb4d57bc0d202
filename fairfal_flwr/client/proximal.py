"""FedProx on the client: a pull to the global weights.

Federated Optimization in Heterogeneous Networks
    Tian Li, Anit Kumar Sahu, Manzil Zaheer, Maziar Sanjabi, Ameet Talwalkar and
    Virginia Smith. MLSys 2020, arXiv 1812.06127.
"""

import torch
from torch import Tensor, nn

from fairfal_flwr.client.plug import Plug, Round, gradients_of

__all__ = ["ProximalPull", "pull_to_global"]


def pull_to_global(this: Round, model: nn.Module) -> Plug | None:
    """Return FedProx's plug where the server sent its μ > 0."""
    mu = this.request.proximal_mu
    return ProximalPull(model, mu) if mu else None


class ProximalPull(Plug):
    """Adds the gradient of (μ/2) |w - w_G|², which is μ (w - w_G) (Equation 2).

    The norm is squared; the code in the docstring of Flower's FedProx takes the norms
    themselves, whose gradient does not fade near w_G.

    Parameters
    ----------
    model : nn.Module
        Holds the global weights w_G now, and the local weights w when it is called.
    mu : float
        μ >= 0.
    """

    def __init__(self, model: nn.Module, mu: float) -> None:
        self._mu = mu
        self._parameters: list[Tensor] = list(model.parameters())
        self._anchors = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def correct(self) -> None:
        """Add μ (w - w_G) to the gradients."""
        gradients = gradients_of(self._parameters)
        torch._foreach_add_(gradients, self._parameters, alpha=self._mu)
        torch._foreach_add_(gradients, self._anchors, alpha=-self._mu)
