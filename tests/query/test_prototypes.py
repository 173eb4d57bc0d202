"""Prototypes and pseudo-labels (method §4), with numbers worked by hand."""

import math

import reference
import torch
from torch.testing import assert_close

from fairfal_flwr.query.prototypes import class_prototypes, pseudo_labels


def test_prototypes_average_directions_not_lengths():
    """The directions are (1, 0) and (0, 1) although one feature is 100 times longer."""
    features = torch.tensor([[100.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    prototypes = class_prototypes(features, torch.tensor([0, 0, 1]), num_classes=3)
    half = math.sqrt(0.5)
    expected = torch.tensor([[half, half], [0.6, 0.8], [0.0, 0.0]])
    assert_close(prototypes, expected)


def test_pseudo_labels_take_the_nearest_direction():
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    features = torch.tensor([[5.0, 4.0], [0.1, 0.2], [-1.0, -2.0]])
    pseudo = pseudo_labels(features, prototypes, torch.tensor([0, 1]))
    assert pseudo.tolist() == [0, 1, 0]


def test_pseudo_labels_never_name_an_absent_class():
    """All similarities to class 0 are negative; the absent class 1 would score 0."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    prototypes = class_prototypes(-features[:1], torch.tensor([0]), num_classes=3)
    pseudo = pseudo_labels(features, prototypes, torch.tensor([0]))
    assert pseudo.tolist() == [0, 0]


def test_pseudo_labels_of_equals_take_the_lower_class():
    prototypes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    pseudo = pseudo_labels(
        torch.tensor([[0.0, 2.0]]), prototypes, torch.tensor([0, 1, 2])
    )
    assert pseudo.tolist() == [0]


def test_pseudo_labels_agree_with_cosines_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator)
    labels = torch.randint(3, (40,), generator=generator)
    pool = torch.randn(50, 5, generator=generator)
    prototypes = class_prototypes(features, labels, num_classes=4)
    pseudo = pseudo_labels(pool, prototypes, torch.tensor([0, 1, 2]))
    expected = [
        max(range(3), key=lambda c: reference.cosine(x, prototypes[c])) for x in pool
    ]
    assert pseudo.tolist() == expected
