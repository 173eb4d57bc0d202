"""Balanced softmax and logit adjustment: by hand, and the slow way."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fairfal_flwr.client.objectives import OBJECTIVES
from fairfal_flwr.client.objectives.balanced_softmax import balanced_softmax_loss
from fairfal_flwr.client.objectives.logit_adjusted import logit_adjusted_loss
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.training import LabeledImages
from fairfal_flwr.config import RunConfig
from fairfal_flwr.models import Classifier


def slow_loss(logits, labels, counts, tau) -> float:
    """Return the mean of -log(n_y^τ e^{z_y} / Σ_c n_c^τ e^{z_c}), term by term."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        parts = [
            count**tau * math.exp(z) if count else 0.0
            for z, count in zip(row, counts.tolist(), strict=True)
        ]
        total -= math.log(parts[label] / sum(parts))
    return total / len(labels)


def test_equal_logits_cost_the_log_of_the_class_s_share():
    logits, counts = torch.zeros(2, 3), torch.tensor([6, 2, 0])
    balanced = balanced_softmax_loss(logits, torch.tensor([0, 1]), counts)
    assert float(balanced) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    adjusted = logit_adjusted_loss(
        logits, torch.tensor([1, 1]), torch.tensor([9, 1, 0]), tau=0.5
    )
    assert float(adjusted) == pytest.approx(math.log(4))  # 1 / (3 + 1)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("counts", [[5, 1, 9], [1, 1, 1], [4, 0, 2]])
def test_the_losses_are_those_of_their_slow_twin(counts, tau):
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(20, 3, generator=generator)
    counts = torch.tensor(counts)
    present = counts.nonzero().flatten()
    labels = present[torch.randint(len(present), (20,), generator=generator)]
    adjusted = float(logit_adjusted_loss(logits, labels, counts, tau=tau))
    assert adjusted == pytest.approx(slow_loss(logits, labels, counts, tau), rel=1e-5)
    if tau == 1.0:
        balanced = float(balanced_softmax_loss(logits, labels, counts))
        assert balanced == pytest.approx(slow_loss(logits, labels, counts, 1), rel=1e-5)


def test_where_all_classes_have_as_many_labels_both_are_the_cross_entropy():
    logits, labels = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([1, 1])
    expected = cross_entropy(logits, labels)
    counts = torch.tensor([4, 4])
    torch.testing.assert_close(balanced_softmax_loss(logits, labels, counts), expected)
    adjusted = logit_adjusted_loss(logits, labels, counts, tau=3.0)
    torch.testing.assert_close(adjusted, expected)


def a_round(labels: list[int], num_classes: int, **keys) -> Round:
    return Round(
        config=RunConfig.from_flat(keys),
        index=0,
        request=SimpleNamespace(cycle=2, round=1),
        networks=SimpleNamespace(shard=SimpleNamespace(num_classes=num_classes)),
        pool=None,
        holdings=SimpleNamespace(labels=torch.tensor(labels)),
        ledger=None,
    )


@pytest.mark.parametrize(
    ("keys", "tau"),
    [
        ({"train.objective": "balanced-softmax"}, 1.0),
        ({"train.objective": "logit-adjusted"}, 1.0),
        ({"train.objective": "logit-adjusted", "logit-adjusted.tau": 0.5}, 0.5),
    ],
)
def test_a_client_counts_its_own_labels(keys, tau):
    loss = OBJECTIVES[keys["train.objective"]].make(a_round([0, 0, 0, 2], 4, **keys))
    head = nn.Linear(2, 4)
    inputs, labels = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([2, 0])
    batch = LabeledImages(inputs[:, None, None, :], labels)
    value = loss(Classifier(nn.Flatten(), head), batch)
    counts = torch.tensor([3, 0, 1, 0])
    expected = slow_loss(head(inputs).detach(), labels, counts, tau)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert head.weight.grad.isfinite().all()
    assert head.bias.grad.tolist()[1::2] == [0.0, 0.0]  # the classes without a label
