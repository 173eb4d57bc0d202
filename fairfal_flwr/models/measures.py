"""How right a network is, class by class."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Measures", "measure"]

_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class Measures:
    """What a network's answers for labeled images amount to.

    Attributes
    ----------
    counts : Tensor, shape (C,), int64
        Images of each class.
    hits : Tensor, shape (C,), int64
        Those of them whose most probable class is theirs.
    loss : float
        Mean log loss, in nats; nan without images.
    """

    counts: Tensor
    hits: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        """The fraction of all images that are hits, a float32; nan without images."""
        return float(self.hits.sum() / self.counts.sum())

    @property
    def recalls(self) -> Tensor:
        """The fraction of hits in each class, (C,) float32; nan where it is empty."""
        return self.hits / self.counts


def measure(probs: Tensor, labels: Tensor) -> Measures:
    """Compare class probabilities with the true classes.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        Rows sum to 1. Of equal ones the lower class is the answer.
    labels : Tensor, shape (N,), int64
        In ``range(C)``, on the same device.

    Returns
    -------
    Measures
        Its loss takes no probability below 1e-12.
    """
    num_classes = probs.shape[1]
    right = labels[probs.argmax(dim=1) == labels]
    likelihood = probs.gather(1, labels[:, None]).clamp(min=_SMALLEST)
    return Measures(
        counts=labels.bincount(minlength=num_classes),
        hits=right.bincount(minlength=num_classes),
        loss=float(-likelihood.log().mean()),
    )
