"""Adversarial DeepFool: samples that a small perturbation carries over a boundary.

Adversarial Active Learning for Deep Networks: a Margin Based Approach
    Melanie Ducoffe and Frederic Precioso. arXiv 1802.09841, 2018.

DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks
    Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard. CVPR 2016,
    arXiv 1511.04599.
"""

from typing import Annotated

import torch
from torch import Tensor

from fairfal_flwr.kinds import Quirks
from fairfal_flwr.query.context import Network, QueryContext, Selection
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.networks import evaluating
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import take_top

__all__ = ["deepfool", "squared_perturbations"]

CHUNK = 2**20  # numbers of the inputs that go through the network at once: 4 MiB


@strategy("deepfool")
def deepfool(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    max_iterations: Annotated[int, Range(ge=1)] = 10,
    quirks: Quirks = "faithful",
) -> Selection:
    """Take the samples of the smallest perturbation that changes their class.

    Parameters
    ----------
    context : QueryContext
        Needs one model's network and the pool's inputs.
    budget : int
        Samples to choose.
    model : str
        The network.
    max_iterations : int
        Steps at most; a sample whose class has not changed by then keeps the sum of its
        steps.
    quirks : {"faithful", "corrected"}
        Which boundary a step heads for: `faithful` that of the last class, since the
        published code never updates its running minimum; `corrected` the nearest.

    Raises
    ------
    ValueError
        If the network or the inputs are missing.
    """
    choice = choose_model(context, model)
    network, inputs = context.network(choice.model), context.inputs("pool")
    with evaluating(network):
        norms = [
            squared_perturbations(
                network, batch, max_iterations=max_iterations, quirks=quirks
            )
            for batch in torch.split(inputs, max(1, CHUNK // inputs[0].numel()))
        ]
    return take_top(-torch.cat(norms), budget, notes=choice.notes)


def squared_perturbations(
    network: Network,
    inputs: Tensor,
    *,
    max_iterations: int,
    quirks: Quirks,
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
    eta = torch.zeros_like(inputs)
    active = torch.arange(len(inputs), device=inputs.device)
    start = None
    for _ in range(max_iterations):
        with torch.enable_grad():
            points = (inputs[active] + eta[active]).detach().requires_grad_()
            _, logits = network.features_and_logits(points)
        predicted = logits.argmax(dim=1)
        start = predicted if start is None else start
        same = predicted == start
        if not same.any():
            break
        steps = _steps(points, logits, start, quirks)
        active, start = active[same], start[same]
        eta[active] += steps[same]
    return eta.flatten(1).square().sum(dim=1)


def _steps(points: Tensor, logits: Tensor, start: Tensor, quirks: Quirks) -> Tensor:
    """Return r for each point, 0 where no class has a boundary.

    One class at a time, so that the gradients of one are held. A class without a
    gradient, ŷ among them, is infinitely far.
    """
    own = logits.gather(1, start[:, None])[:, 0]
    least = torch.full_like(own, torch.inf)
    steps = torch.zeros_like(points)
    num_classes = logits.shape[1]
    classes = range(num_classes)
    for c in classes if quirks == "corrected" else reversed(classes):
        with torch.enable_grad():
            lead = logits[:, c] - own
            (w,) = torch.autograd.grad(lead.sum(), points, retain_graph=True)
        norms = w.flatten(1).norm(dim=1)
        divisors = norms.where(norms > 0, 1)
        distances = lead.detach().abs() / divisors
        scales = distances / divisors
        better = (norms > 0) & scales.isfinite() & (distances < least)
        if quirks == "faithful":
            better &= least.isinf()
        least = distances.where(better, least)
        shape = (-1, *[1] * (points.dim() - 1))
        steps = torch.where(better.view(shape), scales.view(shape) * w, steps)
        if quirks == "faithful" and least.isfinite().all():
            break
    return steps
