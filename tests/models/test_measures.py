"""Accuracy, recalls and log loss, by hand."""

import math

import pytest
import torch

from fairfal_flwr.models import measure

PROBS = torch.tensor(
    [
        [0.5, 0.25, 0.25, 0.0],  # 0, right
        [0.5, 0.5, 0.0, 0.0],  # a tie is the lower class: wrong
        [0.125, 0.5, 0.375, 0.0],  # 1, wrong
        [0.0, 0.0, 1.0, 0.0],  # 2, right
        [1.0, 0.0, 0.0, 0.0],  # 0, wrong, and the truth has no probability at all
    ]
)
LABELS = torch.tensor([0, 1, 2, 2, 2])


def test_measures_by_hand():
    found = measure(PROBS, LABELS)
    assert found.counts.tolist() == [1, 1, 3, 0]
    assert found.hits.tolist() == [1, 0, 1, 0]
    assert found.accuracy == pytest.approx(2 / 5)
    losses = [-math.log(p) for p in (0.5, 0.5, 0.375, 1.0, 1e-12)]
    assert found.loss == pytest.approx(sum(losses) / 5, rel=1e-6)
    *recalls, unknown = found.recalls.tolist()
    assert recalls == pytest.approx([1.0, 0.0, 1 / 3])
    assert math.isnan(unknown)


def test_nothing_is_known_without_images():
    found = measure(PROBS[:0], LABELS[:0])
    assert found.counts.tolist() == found.hits.tolist() == [0] * 4
    assert math.isnan(found.accuracy)
    assert math.isnan(found.loss)
    assert found.recalls.isnan().all()


def test_measures_agree_with_counting_one_by_one():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(200, 5, generator=generator).softmax(dim=1)
    labels = torch.randint(0, 5, (200,), generator=generator)
    counts, hits, losses = [0] * 5, [0] * 5, []
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        counts[label] += 1
        hits[label] += row.index(max(row)) == label
        losses.append(-math.log(row[label]))
    found = measure(probs, labels)
    assert (found.counts.tolist(), found.hits.tolist()) == (counts, hits)
    assert found.accuracy == pytest.approx(sum(hits) / 200)
    assert found.loss == pytest.approx(math.fsum(losses) / 200, rel=1e-5)
