"""Adversarial DeepFool: samples that a small perturbation carries over a boundary.

Adversarial Active Learning for Deep Networks: a Margin Based Approach
    Melanie Ducoffe and Frederic Precioso. arXiv 1802.09841, 2018.

DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks
    Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard. CVPR 2016,
    arXiv 1511.04599.
"""

from typing import Literal

import torch
from torch import Tensor

from fairfal_flwr.query.context import Network, QueryContext, Selection
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.networks import evaluating
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import top

__all__ = ["deepfool", "squared_perturbations"]

TINY = torch.finfo(torch.float32).tiny
CHUNK = 2**23  # numbers held at once in the gradients of all classes: 32 MiB

Quirks = Literal["faithful", "corrected"]


@strategy("deepfool")
def deepfool(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    max_iterations: int = 10,
    quirks: Quirks = "faithful",
) -> Selection:
    """Take the samples of the smallest perturbation that changes their class.

    Parameters
    ----------
    context : QueryContext
        Needs one model's network and the pool's inputs.
    budget : int
        Samples to choose.
    model : str, default "global"
        The network.
    max_iterations : int, default 10
        Steps at most; what has not changed by then keeps the sum of its steps.
    quirks : {"faithful", "corrected"}
        Which boundary a step heads for: "faithful" that of the last class, since the
        published code never updates its running minimum; "corrected" the nearest.

    Raises
    ------
    ValueError
        If the network or the inputs are missing.
    """
    choice = choose_model(context, model)
    network, inputs = context.network(choice.model), context.inputs("pool")
    numbers = context.num_classes * inputs[0].numel()
    with evaluating(network):
        norms = [
            squared_perturbations(
                network, batch, max_iterations=max_iterations, quirks=quirks
            )
            for batch in torch.split(inputs, max(1, CHUNK // numbers))
        ]
    return Selection(top(-torch.cat(norms), budget), notes=choice.notes)


def squared_perturbations(
    network: Network,
    inputs: Tensor,
    *,
    max_iterations: int = 10,
    quirks: Quirks = "corrected",
) -> Tensor:
    """Return ‖η‖², η the sum of the steps until the predicted class changes.

    A step goes to the linearized boundary of one other class i: with
    w_i = ∇f_i − ∇f_ŷ and f_i the logit's lead over that of ŷ, it is
    r = (|f_i| / ‖w_i‖²) w_i, and |f_i| / ‖w_i‖ is the distance (DeepFool, equation 8).

    Parameters
    ----------
    network : Network
        In evaluation mode, so that samples do not influence each other.
    inputs : Tensor, shape (N, ...), float32
        As the network takes them.
    max_iterations, quirks
        See `deepfool`.

    Returns
    -------
    Tensor, shape (N,)
        Where no class has a boundary, 0 is added.
    """
    eta = torch.zeros_like(inputs).flatten(1)
    start = None
    for _ in range(max_iterations):
        logits, gradients = _class_gradients(network, inputs + eta.view_as(inputs))
        predicted = logits.argmax(dim=1)
        start = predicted if start is None else start
        same = predicted == start
        if not same.any():
            break
        rows = torch.arange(len(inputs), device=inputs.device)
        w = gradients - gradients[rows, start][:, None]
        lead = logits - logits[rows, start][:, None]
        norms = w.norm(dim=2)
        # A class without a boundary, ŷ among them, is infinitely far.
        distances = lead.abs() / norms.where(norms > 0, 1)
        distances = distances.where(norms > 0, torch.inf)
        target = _nearest(distances) if quirks == "corrected" else _last(distances)
        step = distances[rows, target] / norms[rows, target].clamp(min=TINY)
        scale = step.where(same & step.isfinite(), 0)
        eta = eta + scale[:, None] * w[rows, target]
    return eta.square().sum(dim=1)


def _nearest(distances: Tensor) -> Tensor:
    return distances.argmin(dim=1)


def _last(distances: Tensor) -> Tensor:
    """Return the last class at a finite distance, or 0 if there is none."""
    classes = torch.arange(distances.shape[1], device=distances.device)
    return (classes * distances.isfinite()).argmax(dim=1)


def _class_gradients(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (N, C) and their gradients at the inputs (N, C, P)."""
    with torch.enable_grad():
        inputs = inputs.detach().clone().requires_grad_()
        _, logits = network.features_and_logits(inputs)
        gradients = [
            torch.autograd.grad(column.sum(), inputs, retain_graph=True)[0]
            for column in logits.unbind(dim=1)
        ]
    return logits.detach(), torch.stack(gradients, dim=1).flatten(2)
