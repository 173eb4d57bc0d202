"""FEAL's loss: by hand, against SciPy's integrals, and what it must not do."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta
from torch import nn
from torch.distributions import Dirichlet, kl_divergence

from fairfal_flwr.client.objectives import OBJECTIVES
from fairfal_flwr.client.objectives.evidential import (
    divergence_from_uniform,
    evidential_loss,
    expected_cross_entropy,
)
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages
from fairfal_flwr.config import RunConfig
from fairfal_flwr.models import Classifier

HALF = torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    ("logits", "label", "expected"),
    [
        # a = (1, 1): ψ(2) - ψ(1) = 1, and no evidence to speak for or against.
        ([0.0, 0.0], 0, 1.5),
        ([-3.0, 0.0], 1, 1.5),
        # a = (3, 1): ψ(4) - ψ(3) = 1/3; the logit 2 is lifted by 2 / S = 1/2.
        ([2.0, 0.0], 0, 1.5 / 3 - 0.1),
        # ψ(4) - ψ(1) = 11/6; KL = ln Γ(4) - ln Γ(3) + 2 (ψ(3) - ψ(4)) = ln 3 - 2/3.
        ([2.0, 0.0], 1, 1.5 * 11 / 6 + 0.1 * 0.25 * (math.log(3) - 2 / 3)),
        # The logit -1 of the label is no evidence, and is lifted all the same.
        ([2.0, -1.0], 1, 1.5 * 11 / 6 + 0.1 * (0.25 * (math.log(3) - 2 / 3) + 0.5)),
    ],
)
def test_the_loss_by_hand(logits, label, expected):
    loss = evidential_loss(
        torch.tensor([logits]), torch.tensor([label]), HALF, weight=0.1, annealing=0.25
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def slow_loss(logits, labels, frequencies, weight, annealing) -> float:
    total = 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        alpha = [max(z, 0.0) + 1 for z in row]
        s = sum(alpha)
        density = beta(alpha[y], s - alpha[y]).pdf
        surprise, _ = quad(lambda p, f=density: -math.log(p) * f(p), 0, 1)
        without = torch.tensor([1.0 if c == y else a for c, a in enumerate(alpha)])
        wrong = kl_divergence(Dirichlet(without), Dirichlet(torch.ones(len(row))))
        lifted = len(row) / s * row[y]
        total += (2 - float(frequencies[y])) * surprise
        total += weight * (annealing * float(wrong) - lifted)
    return total / len(labels)


def test_the_loss_is_that_of_its_slow_twin():
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(12, 3, generator=generator)
    labels = torch.randint(3, (12,), generator=generator)
    frequencies = torch.tensor([0.6, 0.3, 0.1])
    loss = evidential_loss(logits, labels, frequencies, weight=0.2, annealing=0.7)
    twin = slow_loss(logits, labels, frequencies, 0.2, 0.7)
    assert float(loss) == pytest.approx(twin, rel=1e-3)


def test_the_divergence_is_that_of_pytorch_and_0_for_the_uniform_one():
    alpha = 1 + 20 * torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    theirs = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones(50, 6)))
    torch.testing.assert_close(
        divergence_from_uniform(alpha), theirs, rtol=1e-4, atol=1e-4
    )
    assert divergence_from_uniform(torch.ones(1, 6)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_the_share_of_evidence_is_a_constant_of_the_lift():
    """Its gradient at the label's logit is −λ C / S; α_y is in the first term only."""
    logits = torch.tensor([[2.0, 1.0]], requires_grad=True)
    losses = [
        evidential_loss(logits, torch.tensor([0]), HALF, weight=w, annealing=0.0)
        for w in (0.3, 0.0)
    ]
    gradients = [torch.autograd.grad(loss, logits)[0][0, 0] for loss in losses]
    assert float(gradients[0] - gradients[1]) == pytest.approx(-0.3 * 2 / 5)


def test_expected_cross_entropy_falls_with_the_evidence():
    alpha = torch.tensor([[1.0, 1.0], [5.0, 1.0], [50.0, 1.0]])
    losses = expected_cross_entropy(alpha, torch.zeros(3, dtype=torch.int64))
    assert losses.diff().max() < 0


@pytest.mark.parametrize(("number", "annealing"), [(1, 0.25), (3, 0.75), (9, 1.0)])
def test_a_round_brings_frequencies_and_annealing(number, annealing):
    keys = {"train.objective": "evidential", "evidential.weight": 0.5}
    this = Round(
        config=RunConfig.from_flat({**keys, "evidential.annealing-rounds": 4}),
        index=0,
        request=SimpleNamespace(cycle=2, round=number),
        networks=SimpleNamespace(shard=SimpleNamespace(num_classes=3)),
        pool=None,
        holdings=SimpleNamespace(labels=torch.tensor([0, 0, 0, 2])),
        ledger=None,
    )
    head = nn.Linear(2, 3)
    inputs, labels = 3 * torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([2, 0])
    batch = LabeledImages(inputs[:, None, None, :], labels)
    value = OBJECTIVES["evidential"].make(this)(Classifier(nn.Flatten(), head), batch)
    frequencies = torch.tensor([0.75, 0.0, 0.25])
    expected = slow_loss(head(inputs).detach(), labels, frequencies, 0.5, annealing)
    assert float(value) == pytest.approx(expected, rel=1e-3)
    value.backward()
    assert head.weight.grad.isfinite().all()
