"""Balanced softmax: the loss of a softmax that knows how many labels a class has.

Balanced Meta-Softmax for Long-Tailed Visual Recognition
    Jiawei Ren, Cunjun Yu, Shunan Sheng, Xiao Ma, Haiyu Zhao, Shuai Yi and Hongsheng Li.
    NeurIPS 2020, arXiv 2007.10740.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from fairfal_flwr.client.objectives.registry import objective
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages, Objective
from fairfal_flwr.models import Classifier

__all__ = ["balanced_softmax", "balanced_softmax_loss"]


@objective("balanced-softmax")
def balanced_softmax(this: Round) -> Objective:
    """Return the balanced softmax: rare classes of a client count for more.

    The counts are the client's own labels, as of the cycle.
    """
    counts = this.label_counts

    def loss(model: Classifier, batch: LabeledImages) -> Tensor:
        return balanced_softmax_loss(model(batch.inputs), batch.labels, counts)

    return loss


def balanced_softmax_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of −log(n_y exp z_y / Σ_c n_c exp z_c) (equation 4).

    Parameters
    ----------
    logits : Tensor, shape (N, C)
        z.
    labels : Tensor, shape (N,), int64
        y, classes that have labels.
    counts : Tensor, shape (C,), int64
        n, labels of each class. A class without any has no part in the sum, so its
        logit gets no gradient.

    Returns
    -------
    Tensor, shape ()
        In nats.
    """
    return cross_entropy(logits + counts.log(), labels)
