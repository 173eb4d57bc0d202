"""KAFAL's loss: it makes up for classes that a client has few labels of.

Knowledge-Aware Federated Active Learning with Non-IID Data
    Yu-Tong Cao, Ye Shi, Baosheng Yu, Jingya Wang and Dacheng Tao. ICCV 2023, arXiv
    2211.13579.
"""

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from fairfal_flwr.client.distillation import known_logits
from fairfal_flwr.client.objectives.balanced_softmax import balanced_softmax_loss
from fairfal_flwr.client.objectives.registry import objective
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages, Objective
from fairfal_flwr.client.unlabeled import (
    Rows,
    mirrored_at_random,
    pool_batches,
    pool_inputs,
)
from fairfal_flwr.kinds import Quirks
from fairfal_flwr.models import Classifier
from fairfal_flwr.query.options import Range
from fairfal_flwr.randomness import numpy_generator

__all__ = ["class_weights", "kcfu", "kcfu_loss"]


@objective("kcfu")
def kcfu(
    this: Round,
    *,
    beta: Annotated[float, Range(gt=0)] = 2.0,
    start_round: Annotated[int, Range(ge=1)] = 2,
    quirks: Quirks = "faithful",
) -> Objective:
    """Return KAFAL's loss: it makes up for classes that a client has few labels of.

    Parameters
    ----------
    this : Round
        The round.
    beta : float, default 2
        Two unlabeled images are mixed in proportions drawn from the Beta distribution
        with this value twice.
    start_round : int, default 2
        Round of a cycle from which unlabeled images take part.
    quirks : {"faithful", "corrected"}
        `faithful` does as the published code: it mixes all images of a batch with the
        same one, mirrors them where training does, and leaves the server's model in
        training mode, so that its BatchNorm goes by the batch. `corrected` mixes each
        with another, as they are, and asks the server's model in evaluation mode.
    """
    request = this.request
    rng = numpy_generator(
        this.config.seed, "kcfu", request.cycle, request.round, this.index
    )
    server = this.networks.with_weights(request.weights)
    batches = pool_batches(this, rng, server.smallest_batch)
    unlabeled = pool_inputs(this)
    if quirks == "faithful" and this.config.train.horizontal_flip:
        unlabeled = mirrored_at_random(unlabeled, rng)
    return kcfu_loss(
        server,
        this.label_counts,
        unlabeled,
        batches if request.round >= start_round else None,
        rng,
        beta=beta,
        quirks=quirks,
    )


def kcfu_loss(
    server: Classifier,
    counts: Tensor,
    unlabeled: Callable[[Rows], Tensor],
    batches: Iterator[Rows] | None,
    rng: np.random.Generator,
    *,
    beta: float = 2.0,
    quirks: Quirks = "faithful",
) -> Objective:
    """Return KAFAL's loss: balanced softmax, and compensation on unlabeled images.

    The cross-entropy of z + log n is small for the classes that have many labels. The
    compensation is the mean of ω KL(softmax(z_s) ‖ softmax(z)) / C over images
    x̃ = β x + (1 − β) x'; ω = β γ_ŷ + (1 − β) γ_ŷ' weighs what the server takes for a
    rare class, where ŷ is its class for the mixed image of x and ŷ' for that of x'.

    Parameters
    ----------
    server : Classifier
        The global model, gives z_s; its mode is set by `quirks`.
    counts : Tensor, shape (C,), int64
        n, labels of each class. A class without any cannot be predicted by the
        balanced softmax and gets no compensation, as in the published code.
    unlabeled : callable
        Rows to normalized images of the pool.
    batches : iterator, optional
        Rows of the unlabeled images to compensate with; None leaves them out.
    rng : numpy.random.Generator
        Draws the proportions and the partners.
    beta : float, default 2
        β is drawn from Beta(beta, beta), for each image.
    quirks : {"faithful", "corrected"}
        One partner x' for all images of a batch and the server in training mode, or
        one for each and evaluation mode.
    """
    server.train(quirks == "faithful")
    gamma = class_weights(counts)

    def mixed(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size, device = len(inputs), inputs.device
        if quirks == "faithful":
            partners = torch.full((size,), int(rng.integers(size)), device=device)
        else:
            partners = torch.from_numpy(rng.permutation(size)).to(device)
        share = torch.from_numpy(rng.beta(beta, beta, size)).float().to(device)
        own = share[:, None, None, None]
        return own * inputs + (1 - own) * inputs[partners], share, partners

    def compensation(model: Classifier, inputs: Tensor) -> Tensor:
        images, share, partners = mixed(inputs)
        known = known_logits(server, images)
        classes = known.argmax(dim=1)
        weights = share * gamma[classes] + (1 - share) * gamma[classes[partners]]
        terms = kl_div(
            model(images).log_softmax(dim=1),
            known.log_softmax(dim=1),
            reduction="none",
            log_target=True,
        )
        return (weights * terms.mean(dim=1)).mean()

    def loss(model: Classifier, batch: LabeledImages) -> Tensor:
        supervised = balanced_softmax_loss(model(batch.inputs), batch.labels, counts)
        if batches is None:
            return supervised
        return supervised + compensation(model, unlabeled(next(batches)))

    return loss


def class_weights(counts: Tensor) -> Tensor:
    """Return γ_c ∝ 1 / (n_c + 1e-6), 0 for a class without labels; they sum to 1.

    Examples
    --------
    >>> class_weights(torch.tensor([3, 1, 0]))
    tensor([0.2500, 0.7500, 0.0000])
    """
    inverse = (1 / (counts + 1e-6)).where(counts > 0, 0.0)
    return inverse / inverse.sum()
