"""Points that are outer products, and distances that never build them.

The gradient of the cross-entropy with respect to the last linear layer is the outer
product of a class residual and a feature, a vector of C·D numbers. Inner products
factor, ⟨a⊗h, a'⊗h'⟩ = (a·a')(h·h'), so distances need C + D numbers a point.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fairfal_flwr.query.context import Outputs

__all__ = [
    "MeanOuterProducts",
    "OuterProducts",
    "Points",
    "gradient_embedding",
    "hypothetical_gradients",
    "squared_distances_from",
]


class Points(Protocol):
    """N points that are known by their inner products."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice, /) -> Self: ...

    def squared_norms(self) -> Tensor:
        """Return the squared norms, shape (N,)."""

    def inner_products(self, others: Self, /) -> Tensor:
        """Return the inner products with M others, shape (N, M)."""


@dataclass(frozen=True)
class OuterProducts:
    """N points left_i ⊗ right_i of dimension C·D, kept as their factors.

    Parameters
    ----------
    left : Tensor, shape (N, C)
        The first factors. A column of ones makes the points plain `right` vectors.
    right : Tensor, shape (N, D)
        The second factors.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def plain(cls, points: Tensor) -> Self:
        """Return ordinary points, shape (N, D), in this form."""
        return cls(points.new_ones(len(points), 1), points)

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, index: Tensor | slice, /) -> Self:
        return type(self)(self.left[index], self.right[index])

    def squared_norms(self) -> Tensor:
        """Return |left|² |right|², shape (N,)."""
        return self.left.square().sum(dim=1) * self.right.square().sum(dim=1)

    def inner_products(self, others: Self, /) -> Tensor:
        """Return (left·left')(right·right'), shape (N, M)."""
        return (self.left @ others.left.T) * (self.right @ others.right.T)

    def squared_distances(self, others: Self, /) -> Tensor:
        """Return |a|²|h|² + |a'|²|h'|² − 2(a·a')(h·h'), shape (N, M), at least 0."""
        norms = self.squared_norms()[:, None] + others.squared_norms()
        return (norms - 2 * self.inner_products(others)).clamp(min=0)


@dataclass(frozen=True)
class MeanOuterProducts:
    """N points, each the mean of T outer products; only the factors are kept.

    Parameters
    ----------
    terms : tuple of OuterProducts
        T of them, N points each; the dimensions may differ only where T is 1.
    """

    terms: tuple[OuterProducts, ...]

    def __len__(self) -> int:
        return len(self.terms[0])

    def __getitem__(self, index: Tensor | slice, /) -> Self:
        return type(self)(tuple(term[index] for term in self.terms))

    def squared_norms(self) -> Tensor:
        """Return (1/T²) Σ_s Σ_t (a_s·a_t)(h_s·h_t), shape (N,)."""
        products = [
            (s.left * t.left).sum(dim=1) * (s.right * t.right).sum(dim=1)
            for s in self.terms
            for t in self.terms
        ]
        return torch.stack(products).mean(dim=0)

    def inner_products(self, others: Self, /) -> Tensor:
        """Return (1/T²) Σ_s Σ_t (a_s·a'_t)(h_s·h'_t), shape (N, M)."""
        products = [s.inner_products(t) for s in self.terms for t in others.terms]
        return torch.stack(products).mean(dim=0)


def gradient_embedding(
    probs: Tensor, features: Tensor, classes: Tensor
) -> OuterProducts:
    """Return (onehot(y) − p) ⊗ h (method §5.3), factored.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        p, class probabilities.
    features : Tensor, shape (N, D)
        h, unnormalized.
    classes : Tensor, shape (N,), int64
        y: the true class of a labeled sample, the predicted one of a pool sample.
    """
    residuals = one_hot(classes, probs.shape[1]).to(probs.dtype) - probs
    return OuterProducts(residuals, features)


def hypothetical_gradients(outputs: Outputs) -> OuterProducts:
    """Return (onehot(ŷ) − p) ⊗ h with ŷ = argmax p (BADGE, section 3), factored.

    Its sign is opposite to the gradient's, which no distance sees.
    """
    predicted = outputs.probs.argmax(dim=1)
    return gradient_embedding(outputs.probs, outputs.features, predicted)


def squared_distances_from(
    points: Points, position: Tensor, squared_norms: Tensor
) -> Tensor:
    """Return |x − y|² = |x|² + |y|² − 2 x·y for each point x and one of them, y.

    Parameters
    ----------
    points : Points
        N points.
    position : Tensor, shape (), int64
        Which of them is y.
    squared_norms : Tensor, shape (N,)
        Of the points; whoever asks for many distances computes them once.

    Returns
    -------
    Tensor, shape (N,)
        At least 0.
    """
    inner = points.inner_products(points[position[None]])[:, 0]
    norms = squared_norms + squared_norms[position]
    return (norms - 2 * inner).clamp_(min=0)
