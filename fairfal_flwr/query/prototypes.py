"""Prototype-guided pseudo-labels (method §4)."""

from torch import Tensor
from torch.nn.functional import normalize, one_hot

__all__ = ["class_prototypes", "pseudo_labels"]


def class_prototypes(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return μ_c, the normalized mean of the ℓ2-normalized features of class c.

    μ_c = m_c / |m_c| with m_c = mean_{i: y_i = c} z(x_i), z = h / |h| (method §4).

    Parameters
    ----------
    features : Tensor, shape (M, D)
        h of the labeled samples.
    labels : Tensor, shape (M,), int64
        Their classes.
    num_classes : int
        Number of classes C.

    Returns
    -------
    Tensor, shape (C, D)
        Unit rows; zeros for a class without a labeled sample.

    Examples
    --------
    >>> import torch
    >>> features = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    >>> class_prototypes(features, torch.tensor([0, 0]), num_classes=2)
    tensor([[0.7071, 0.7071],
            [0.0000, 0.0000]])
    """
    members = one_hot(labels, num_classes).to(features.dtype)
    return normalize(members.T @ normalize(features))


def pseudo_labels(features: Tensor, prototypes: Tensor, present: Tensor) -> Tensor:
    """Return argmax_c ⟨z(x), μ_c⟩ over the classes present (method §4).

    Parameters
    ----------
    features : Tensor, shape (N, D)
        h of the pool samples.
    prototypes : Tensor, shape (C, D)
        From `class_prototypes`.
    present : Tensor, shape (P,), int64
        The classes with a labeled sample, ascending; no other is assigned.

    Returns
    -------
    Tensor, shape (N,), int64
        A class each; among equals the lowest.
    """
    similarities = normalize(features) @ prototypes[present].T
    return present[similarities.argmax(dim=1)]
