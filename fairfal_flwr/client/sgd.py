"""Stochastic gradient descent for processes that live for one message."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd

__all__ = ["SGD"]


class SGD:
    """`torch.optim.SGD(fused=True)` bit for bit, without its import of seconds.

    The first `torch.optim.SGD` of a process imports `torch._dynamo`, and a deployed
    client is a new process for every message. The update itself is PyTorch's function.

    Parameters
    ----------
    parameters : iterable of Tensor
        What to update, in place; one without a gradient is left as it is.
    lr : float
        Learning rate.
    momentum, weight_decay : float
        As in PyTorch.
    decay_after : int, optional
        Steps after which the learning rate is multiplied by `decay`.
    decay : float, default 1.0
        That factor.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        decay_after: int | None = None,
        decay: float = 1.0,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.decay_after, self.decay = decay_after, decay
        self.steps = 0
        self.velocities: dict[Tensor, Tensor | None] = {}  # of those with momentum

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by their gradients."""
        if self.steps == self.decay_after:
            self.lr *= self.decay
        self.steps += 1
        used = [p for p in self.parameters if p.grad is not None]
        velocities = [self.velocities.get(p) for p in used] if self.momentum else []
        sgd(
            used,
            [p.grad for p in used if p.grad is not None],
            velocities,
            fused=True,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        self.velocities.update(zip(used, velocities, strict=False))
