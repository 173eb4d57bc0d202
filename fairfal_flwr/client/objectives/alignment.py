"""CHASe's loss: it holds a client to the global model, or to its own past.

CHASe: Client Heterogeneity-Aware Data Selection for Effective Federated Active Learning
    Jun Zhang, Jue Wang, Huan Li, Zhongle Xie, Ke Chen and Lidan Shou. IEEE Transactions
    on Knowledge and Data Engineering, 2025, arXiv 2504.17448.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from fairfal_flwr.client.distillation import known_logits
from fairfal_flwr.client.last_round import LastRounds
from fairfal_flwr.client.objectives.registry import objective
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages, Objective, supervised_loss
from fairfal_flwr.client.unlabeled import Rows, pool_batches, pool_inputs
from fairfal_flwr.kinds import Quirks
from fairfal_flwr.models import Classifier
from fairfal_flwr.query.memory import PredictionChanges, Watches
from fairfal_flwr.query.options import Range
from fairfal_flwr.randomness import numpy_generator

__all__ = ["alignment", "alignment_loss"]

CHANGES = "changes"


def _watches(*, quirks: str, **_: Any) -> Watches:
    return {CHANGES: PredictionChanges} if quirks == "corrected" else {}


@objective("alignment", needs_last_round=True, watches=_watches)
def alignment(
    this: Round,
    *,
    weight: Annotated[float, Range(ge=0)] = 1.0,
    temperature: Annotated[float, Range(gt=0)] = 0.5,
    quirks: Quirks = "faithful",
) -> Objective:
    """Return CHASe's loss: it holds a client to the global model, or to its own past.

    In the first round of a cycle, which has no past, it is the cross-entropy.

    Parameters
    ----------
    this : Round
        The round.
    weight : float, default 1
        Weight of the alignment beside the cross-entropy (μ).
    temperature : float, default 0.5
        Divides the cosine similarities of the logits (τ).
    quirks : {"faithful", "corrected"}
        `faithful` aligns every image with the global model, as the published code does;
        `corrected` only those whose prediction changed at least as often as the mean,
        the others with the client's previous model.
    """
    request, networks = this.request, this.networks
    rng = numpy_generator(
        this.config.seed, "alignment", request.cycle, request.round, this.index
    )
    server = networks.with_weights(request.weights)
    batches = pool_batches(this, rng, server.smallest_batch)
    last = LastRounds(this.ledger).before(request)
    if batches is None or last is None:
        return supervised_loss
    pool = this.holdings.pool
    return alignment_loss(
        server,
        networks.with_weights(last.weights),
        last.memory(CHANGES, this.pool.sample_ids(pool)).to(pool.device),
        pool_inputs(this),
        batches,
        weight=weight,
        temperature=temperature,
        quirks=quirks,
    )


def alignment_loss(
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
                cosine_similarity(logits, known_logits(other, inputs))
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
