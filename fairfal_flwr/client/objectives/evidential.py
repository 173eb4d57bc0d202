"""FEAL's loss: a network learns how much evidence it has for each class.

Think Twice Before Selection: Federated Evidential Active Learning for Medical Image
Analysis with Domain Shifts
    Jiayi Chen, Benteng Ma, Hengfei Cui and Yong Xia. CVPR 2024, arXiv 2312.02567.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fairfal_flwr.client.objectives.registry import objective
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages, Objective
from fairfal_flwr.models import Classifier
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.strategies.feal import dirichlet_parameters

__all__ = [
    "divergence_from_uniform",
    "evidential",
    "evidential_loss",
    "expected_cross_entropy",
]


@objective("evidential")
def evidential(
    this: Round,
    *,
    weight: Annotated[float, Range(ge=0)] = 0.01,
    annealing_rounds: Annotated[int, Range(ge=1)] = 10,
) -> Objective:
    """Return FEAL's loss: logits are evidence for a Dirichlet distribution.

    Parameters
    ----------
    this : Round
        The round.
    weight : float, default 0.01
        Of what regularizes the evidence (λ).
    annealing_rounds : int, default 10
        Evidence for wrong classes is held against the network more and more up to this
        round of a cycle.
    """
    counts = this.label_counts
    frequencies = counts / counts.sum()
    annealing = min(1.0, this.request.round / annealing_rounds)

    def loss(model: Classifier, batch: LabeledImages) -> Tensor:
        return evidential_loss(
            model(batch.inputs),
            batch.labels,
            frequencies,
            weight=weight,
            annealing=annealing,
        )

    return loss


def evidential_loss(
    logits: Tensor,
    labels: Tensor,
    frequencies: Tensor,
    *,
    weight: float,
    annealing: float,
) -> Tensor:
    """Return the mean of (2 − π_y) CE + λ (a KL − (C / S) z_y).

    With α = ReLU(z) + 1 and S = Σ_c α_c: CE is the `expected_cross_entropy`, KL the
    `divergence_from_uniform` of α without the evidence for y. The last term lifts the
    logit of the class where there is little evidence for any; C / S is a constant of
    it.

    Parameters
    ----------
    logits : Tensor, shape (N, C)
        z.
    labels : Tensor, shape (N,), int64
        y.
    frequencies : Tensor, shape (C,)
        π, the share of each class among the client's labels.
    weight : float
        λ.
    annealing : float
        a, in [0, 1].

    Returns
    -------
    Tensor, shape ()
    """
    alpha = dirichlet_parameters(logits)
    of_label = one_hot(labels, logits.shape[1]).bool()
    vacuity = logits.shape[1] / alpha.detach().sum(dim=1)
    supervised = (2 - frequencies[labels]) * expected_cross_entropy(alpha, labels)
    wrong = divergence_from_uniform(alpha.masked_fill(of_label, 1.0))
    lifted = vacuity * logits[of_label]
    return (supervised + weight * (annealing * wrong - lifted)).mean()


def expected_cross_entropy(alpha: Tensor, labels: Tensor) -> Tensor:
    """Return ψ(S) − ψ(α_y), the mean of −log p_y over p from Dirichlet(α).

    Parameters
    ----------
    alpha : Tensor, shape (N, C)
        α, above 0; S = Σ_c α_c.
    labels : Tensor, shape (N,), int64
        y.

    Returns
    -------
    Tensor, shape (N,)
        In nats, above 0.
    """
    of_label = alpha.gather(1, labels[:, None])[:, 0]
    return torch.digamma(alpha.sum(dim=1)) - torch.digamma(of_label)


def divergence_from_uniform(alpha: Tensor) -> Tensor:
    """Return KL(Dirichlet(α) ‖ Dirichlet(1, …, 1)).

    Which is ln Γ(S) − ln Γ(C) − Σ_c ln Γ(α_c) + Σ_c (α_c − 1) (ψ(α_c) − ψ(S)).

    Parameters
    ----------
    alpha : Tensor, shape (N, C)
        α, above 0; S = Σ_c α_c.

    Returns
    -------
    Tensor, shape (N,)
        In nats, at least 0; 0 where every α_c is 1.
    """
    total = alpha.sum(dim=1, keepdim=True)
    num_classes = total.new_tensor(float(alpha.shape[1]))
    normalizers = torch.lgamma(total[:, 0]) - torch.lgamma(num_classes)
    spread = (alpha - 1) * (torch.digamma(alpha) - torch.digamma(total))
    return normalizers + (spread - torch.lgamma(alpha)).sum(dim=1)
