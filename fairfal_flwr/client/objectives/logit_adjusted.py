"""Logit adjustment: logits are shifted by how likely each class is.

Long-Tail Learning via Logit Adjustment
    Aditya Krishna Menon, Sadeep Jayasumana, Ankit Singh Rawat, Himanshu Jain, Andreas
    Veit and Sanjiv Kumar. ICLR 2021, arXiv 2007.07314.
"""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import cross_entropy

from fairfal_flwr.client.objectives.registry import objective
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages, Objective
from fairfal_flwr.models import Classifier
from fairfal_flwr.query.options import Range

__all__ = ["logit_adjusted", "logit_adjusted_loss"]


@objective("logit-adjusted")
def logit_adjusted(
    this: Round, *, tau: Annotated[float, Range(gt=0)] = 1.0
) -> Objective:
    """Return the logit-adjusted loss: rare classes of a client count for more.

    The counts are the client's own labels, as of the cycle.

    Parameters
    ----------
    this : Round
        The round.
    tau : float, default 1
        How strongly class frequencies count (τ). With 1 this is the balanced softmax.
    """
    counts = this.label_counts

    def loss(model: Classifier, batch: LabeledImages) -> Tensor:
        return logit_adjusted_loss(model(batch.inputs), batch.labels, counts, tau=tau)

    return loss


def logit_adjusted_loss(
    logits: Tensor, labels: Tensor, counts: Tensor, *, tau: float = 1.0
) -> Tensor:
    """Return the mean of −log(π_y^τ exp z_y / Σ_c π_c^τ exp z_c) (equation 10).

    Parameters
    ----------
    logits : Tensor, shape (N, C)
        z.
    labels : Tensor, shape (N,), int64
        y, classes that have labels.
    counts : Tensor, shape (C,), int64
        n; π = n / Σ n are the class frequencies. A class without labels has no part in
        the sum, so its logit gets no gradient.
    tau : float, default 1
        τ, above 0.

    Returns
    -------
    Tensor, shape ()
        In nats.
    """
    frequencies = counts / counts.sum()
    return cross_entropy(logits + tau * frequencies.log(), labels)
