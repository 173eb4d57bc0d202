"""Distillation: a network learns what another makes of the same images.

Distilling the Knowledge in a Neural Network
    Geoffrey Hinton, Oriol Vinyals and Jeff Dean. 2015, arXiv 1503.02531.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from fairfal_flwr.client.training import LabeledImages, Objective
from fairfal_flwr.models import Classifier

__all__ = ["distillation", "known_logits"]


def distillation(
    teacher: Classifier, *, temperature: float, weight: float
) -> Objective:
    """Return (1 − w) CE(z, y) + w T² KL(softmax(z_t / T) ‖ softmax(z / T)).

    The form that IFAL takes.

    Parameters
    ----------
    teacher : Classifier
        Gives z_t, in evaluation mode.
    temperature : float
        T.
    weight : float
        w, in [0, 1].
    """
    teacher.eval()

    def loss(model: Classifier, batch: LabeledImages) -> Tensor:
        logits = model(batch.inputs)
        known = known_logits(teacher, batch.inputs)
        divergence = kl_div(
            (logits / temperature).log_softmax(dim=1),
            (known / temperature).log_softmax(dim=1),
            reduction="batchmean",
            log_target=True,
        )
        supervised = cross_entropy(logits, batch.labels)
        return (1 - weight) * supervised + weight * temperature**2 * divergence

    return loss


@torch.no_grad()
def known_logits(model: Classifier, inputs: Tensor) -> Tensor:
    """Return the logits of a network that others learn from: without gradients."""
    logits: Tensor = model(inputs)
    return logits
