"""ALFA-Mix: samples whose prediction flips when mixed with a labeled class.

Active Learning by Feature Mixing
    Amin Parvaneh, Ehsan Abbasnejad, Damien Teney, Reza Haffari, Anton van den Hengel
    and Javen Qinfeng Shi. CVPR 2022, arXiv 2203.07034.
"""

import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from fairfal_flwr.kinds import Quirks
from fairfal_flwr.query.clusters import k_means, nearest_members
from fairfal_flwr.query.context import Model, Outputs, QueryContext, Selection
from fairfal_flwr.query.model_choice import ModelOption, choose_model, models_of
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import fill_up

__all__ = ["alfa_mix", "class_anchors", "flips"]

CHUNK = 2**22  # numbers held at once in a mixture: 16 MiB


def _models(*, model: ModelOption, quirks: str, **_: Any) -> tuple[Model, ...]:
    own = models_of(model)
    return own if quirks == "corrected" or "global" in own else (*own, "global")


@strategy("alfa-mix", models=_models)
def alfa_mix(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    alpha_cap_step: Annotated[float, Range(gt=0, le=1)] = 0.2,
    num_starts: Annotated[int, Range(ge=1)] = 10,
    quirks: Quirks = "faithful",
) -> Selection:
    """Collect samples that flip, cluster them, take one of each cluster.

    Parameters
    ----------
    context : QueryContext
        Needs labels, one model's outputs on both splits, and a network's last layer.
    budget : int
        Samples to choose.
    model : str
        Whose features are mixed.
    alpha_cap_step : float
        The cap ε on the mixing grows by this until more samples than the budget have
        changed their class or it reaches 1.
    num_starts : int
        Runs of k-means of which the best is kept; 10 were scikit-learn's default when
        the published code was run.
    quirks : {"faithful", "corrected"}
        Whose last layer judges the mixtures: `faithful` always the global model's, as
        the published code does, though the features may be another's; `corrected` that
        of the model that queries.

    Notes
    -----
    What the candidates leave open is drawn from the rest of the pool without
    replacement; the published code draws with replacement and may ask for a sample
    twice. k-means is on normalized features; the nearest member of each cluster.

    Raises
    ------
    ValueError
        If every label or the network is missing.
    """
    context.require_labels("ALFA-Mix")
    choice = choose_model(context, model)
    head = context.network(choice.model if quirks == "corrected" else "global").head
    pool = context.outputs(choice.model, "pool")
    anchors = class_anchors(
        context.outputs(choice.model, "labeled").features,
        context.labels,
        context.num_classes,
    )
    flipped = torch.zeros_like(pool.probs[:, 0], dtype=torch.bool)
    for step in range(math.ceil(1 / alpha_cap_step - 1e-9)):
        cap = min(1.0, (step + 1) * alpha_cap_step)
        flipped |= flips(pool, anchors, head, cap=cap)
        if flipped.sum() > budget:
            break
    candidates = flipped.nonzero().flatten()
    chosen = candidates
    if len(candidates) > budget:
        directions = normalize(pool.features[candidates])
        clusters = k_means(
            directions,
            budget,
            generator=context.generator,
            num_starts=num_starts,
        )
        chosen = candidates[nearest_members(directions, clusters)]
    spare = torch.randperm(context.pool_size, generator=context.generator)
    return Selection(fill_up(chosen, spare.to(chosen), budget), notes=choice.notes)


def class_anchors(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return z̄_c, the mean feature of class c, or of all where c has no label.

    Parameters
    ----------
    features : Tensor, shape (M, D)
        Of the labeled samples, M >= 1.
    labels : Tensor, shape (M,), int64
        Their classes.
    num_classes : int
        C.

    Returns
    -------
    Tensor, shape (C, D)
    """
    members = one_hot(labels, num_classes).to(features.dtype)
    sizes = members.sum(dim=0)[:, None]
    means = members.T @ features / sizes.clamp(min=1)
    return torch.where(sizes > 0, means, features.mean(dim=0))


def flips(outputs: Outputs, anchors: Tensor, head: nn.Linear, *, cap: float) -> Tensor:
    """Return which samples change their class for some anchor (section 3.2).

    With z = z̄_c − h and g = ∂CE(W h, ŷ)/∂h, the mixture is (1 − α) h + α z̄_c for
    α = (ε/√D) (‖z‖/‖g‖) g/z, element by element: h moves along g by (ε/√D) ‖z‖/‖g‖,
    but not where it agrees with the anchor.

    Parameters
    ----------
    outputs : Outputs
        Of N samples; ŷ = argmax p.
    anchors : Tensor, shape (C, D)
        z̄_c, from `class_anchors`.
    head : nn.Linear
        W, from features to logits.
    cap : float
        ε, in (0, 1].

    Returns
    -------
    Tensor, shape (N,), bool
    """
    changed = []
    size = max(1, CHUNK // outputs.features.shape[1])
    predicted = outputs.probs.argmax(dim=1)
    weight = head.weight.detach()
    bias = None if head.bias is None else head.bias.detach()
    batches = torch.split(outputs.features, size), torch.split(predicted, size)
    for h, y in zip(*batches, strict=True):
        probs = nn.functional.linear(h, weight, bias).softmax(dim=1)
        g = (probs - one_hot(y, probs.shape[1]).to(probs)) @ weight
        direction = cap / math.sqrt(h.shape[1]) * normalize(g)
        found = torch.zeros_like(y, dtype=torch.bool)
        for anchor in anchors:
            z = anchor - h
            move = z.norm(dim=1, keepdim=True) * direction * (z != 0)
            mixed = nn.functional.linear(h + move, weight, bias)
            found |= mixed.argmax(dim=1) != y
        changed.append(found)
    return torch.cat(changed)
