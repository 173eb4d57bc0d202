"""Factored points: the inner products and distances of the explicit C·D vectors."""

import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from fairfal_flwr.query.gradient_embedding import OuterProducts, gradient_embedding


def explicit(points: OuterProducts) -> torch.Tensor:
    return torch.einsum("nc,nd->ncd", points.left, points.right).flatten(1)


def test_gradient_embedding_by_hand():
    """With a = (1, 0) − (0.75, 0.25) = (0.25, −0.25), h = (2, 4)."""
    points = gradient_embedding(
        torch.tensor([[0.75, 0.25]]), torch.tensor([[2.0, 4.0]]), torch.tensor([0])
    )
    assert explicit(points).tolist() == [[0.5, 1.0, -0.5, -1.0]]


def test_gradient_embedding_is_minus_the_gradient_of_the_last_layer():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, requires_grad=True)
    feature = torch.randn(1, 4, generator=generator)
    logits = feature @ weight.T
    label = torch.tensor([2])
    (gradient,) = torch.autograd.grad(cross_entropy(logits, label), weight)
    points = gradient_embedding(logits.detach().softmax(dim=1), feature, label)
    assert_close(explicit(points).view(3, 4), -gradient)


@given(st.integers(2, 7), st.integers(1, 9), st.integers(0, 999))
def test_factored_distances_equal_the_explicit_ones(num_classes, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = reference.random_outputs(12, num_classes, dim, generator)
    labels = torch.randint(num_classes, (12,), generator=generator)
    points = gradient_embedding(outputs.probs, outputs.features, labels)
    vectors = reference.embeddings(outputs.probs, outputs.features, labels)
    assert_close(explicit(points).double(), vectors, atol=1e-5, rtol=1e-5)
    tolerance = {"atol": 1e-4, "rtol": 1e-4}
    norms = vectors.square().sum(dim=1)
    assert_close(points.squared_norms().double(), norms, **tolerance)
    inner = vectors[:5] @ vectors[5:].T
    assert_close(points[:5].inner_products(points[5:]).double(), inner, **tolerance)
    squared = torch.cdist(vectors[:5], vectors[5:]).square()
    assert_close(
        points[:5].squared_distances(points[5:]).double(), squared, **tolerance
    )


def test_distances_are_never_negative():
    points = OuterProducts(torch.full((3, 2), 0.1), torch.full((3, 2), 1000.1))
    assert (points.squared_distances(points) >= 0).all()


def test_plain_points_are_ordinary_vectors():
    points = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    plain = OuterProducts.plain(points)
    assert len(plain) == 2
    assert plain.squared_distances(plain).tolist() == [[0, 25], [25, 0]]
