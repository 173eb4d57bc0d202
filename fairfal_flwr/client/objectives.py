"""Losses of a mini-batch, for the training loop: KAFAL's, CHASe's, and distillation.

Each function here returns an `Objective` that holds all it needs beside the batch.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div

from fairfal_flwr.client.last_round import LastRoundFile
from fairfal_flwr.client.networks import Holdings, Networks
from fairfal_flwr.client.training import LabeledImages, Objective, supervised_loss
from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import TrainRequest
from fairfal_flwr.models import Classifier
from fairfal_flwr.randomness import numpy_generator

__all__ = [
    "alignment",
    "class_weights",
    "distillation",
    "kcfu",
    "make_objective",
    "random_batches",
]

Quirks = Literal["faithful", "corrected"]
Rows = NDArray[np.int64]


def make_objective(
    config: RunConfig,
    index: int,
    networks: Networks,
    holdings: Holdings,
    request: TrainRequest,
    last_round: LastRoundFile,
) -> Objective:
    """Return the loss that `train.objective` names, for one round on one client.

    Parameters
    ----------
    config : RunConfig
        Sections `train`, `kcfu` and `alignment`.
    index : int
        The client's index; with seed, cycle and round it determines all randomness.
    networks, holdings
        The client's images; those of the pool take part without their labels.
    request : TrainRequest
        The round and the global weights.
    last_round : LastRoundFile
        The client's round before, for the alignment.
    """
    name, size = config.train.objective, len(holdings.pool)
    if name == "supervised":
        return supervised_loss
    rng = numpy_generator(config.seed, name, request.cycle, request.round, index)
    server = networks.with_weights(request.weights)
    batches = None
    if size:
        batches = random_batches(
            size, config.train.batch_size, rng, smallest=server.smallest_batch
        )

    def unlabeled(rows: Rows) -> Tensor:
        positions = torch.from_numpy(rows).to(holdings.pool.device)
        return networks.inputs(holdings.pool[positions])

    if name == "kcfu":
        classes = networks.shard.num_classes
        return kcfu(
            server,
            holdings.labels.bincount(minlength=classes),
            unlabeled,
            batches if request.round >= config.kcfu.start_round else None,
            rng,
            beta=config.kcfu.beta,
            quirks=config.kcfu.quirks,
        )
    last = last_round.read()
    if batches is None or last is None or not last.precedes(request):
        return supervised_loss
    return alignment(
        server,
        networks.with_weights(last.weights),
        last.changes_of(networks.sample_ids(holdings.pool)).to(holdings.pool.device),
        unlabeled,
        batches,
        weight=config.alignment.weight,
        temperature=config.alignment.temperature,
        quirks=config.alignment.quirks,
    )


def distillation(
    teacher: Classifier, *, temperature: float, weight: float
) -> Objective:
    """Return (1 − w) CE(z, y) + w T² KL(softmax(z_t / T) ‖ softmax(z / T)).

    Distilling the Knowledge in a Neural Network, Hinton et al., 2015, arXiv 1503.02531,
    in the form that IFAL takes.

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
        known = _logits(teacher, batch.inputs)
        divergence = kl_div(
            (logits / temperature).log_softmax(dim=1),
            (known / temperature).log_softmax(dim=1),
            reduction="batchmean",
            log_target=True,
        )
        supervised = cross_entropy(logits, batch.labels)
        return (1 - weight) * supervised + weight * temperature**2 * divergence

    return loss


def kcfu(
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

    Knowledge-Aware Federated Active Learning with Non-IID Data, Cao et al., ICCV 2023,
    arXiv 2211.13579.

    The cross-entropy of z + log n is small for the classes that have many labels. The
    compensation is the mean of ω KL(softmax(z_s) ‖ softmax(z)) / C over images
    x̃ = β x + (1 − β) x'; ω = β γ_ŷ + (1 − β) γ_ŷ' weighs what the server takes for a
    rare class, where ŷ is its class for the mixed image of x and ŷ' for that of x'.

    Parameters
    ----------
    server : Classifier
        The global model, gives z_s in evaluation mode.
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
        One partner x' for all images of a batch, or one for each.
    """
    server.eval()
    prior = counts.log()  # -inf for a class without labels
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
        known = _logits(server, images)
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
        supervised = cross_entropy(model(batch.inputs) + prior, batch.labels)
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


def alignment(
    server: Classifier,
    previous: Classifier,
    changes: Tensor,
    unlabeled: Callable[[Rows], Tensor],
    batches: Iterator[Rows],
    *,
    weight: float = 1.0,
    temperature: float = 0.5,
    quirks: Quirks = "faithful",
) -> Objective:
    """Return CE(z, y) + μ CE([cos(o, o_G), cos(o, o_old)] / τ, t), CHASe's loss.

    Client-Heterogeneity-Aware Data Selection for Effective Federated Active Learning,
    Zhang et al., arXiv 2504.17448.

    o, o_G and o_old are the logits of the model, the global model and the client's
    model of its previous round for unlabeled images. The target t is the global model
    for images with at least the mean epistemic variation, else the previous model.

    Parameters
    ----------
    server, previous : Classifier
        Give o_G and o_old in evaluation mode.
    changes : Tensor, shape (N,), int64
        Epistemic variation of the pool in the previous round.
    unlabeled : callable
        Rows to normalized images of the pool.
    batches : iterator
        Rows of the unlabeled images, N in all.
    weight : float
        μ.
    temperature : float
        τ.
    quirks : {"faithful", "corrected"}
        The published code looks at counts that it has just set to zero, so its target
        is the global model for every image.
    """
    server.eval()
    previous.eval()
    towards_past = (changes < changes.float().mean()).long()

    def loss(model: Classifier, batch: LabeledImages) -> Tensor:
        rows = next(batches)
        inputs = unlabeled(rows)
        logits = model(inputs)
        similarities = torch.stack(
            [
                cosine_similarity(logits, _logits(other, inputs))
                for other in (server, previous)
            ],
            dim=1,
        )
        targets = towards_past[torch.from_numpy(rows).to(inputs.device)]
        if quirks == "faithful":
            targets = torch.zeros_like(targets)
        aligned = cross_entropy(similarities / temperature, targets)
        return supervised_loss(model, batch) + weight * aligned

    return loss


def random_batches(
    size: int, batch_size: int, rng: np.random.Generator, *, smallest: int = 1
) -> Iterator[Rows]:
    """Yield the rows of mini-batches for ever, in a new order at every pass.

    Parameters
    ----------
    size : int
        Rows, at least 1.
    batch_size : int
        Rows in a mini-batch. What is left of a pass is dropped, unless it is all.
    rng : numpy.random.Generator
        Shuffles.
    smallest : int, default 1
        Rows that a mini-batch must have; they are repeated where there are too few.
    """
    batch_size = max(batch_size, smallest)
    while True:
        order = rng.permutation(size)
        if size < smallest:
            order = np.resize(order, smallest)
        for start in range(0, max(1, size - batch_size + 1), batch_size):
            yield order[start : start + batch_size]


@torch.no_grad()
def _logits(model: Classifier, inputs: Tensor) -> Tensor:
    logits: Tensor = model(inputs)
    return logits
