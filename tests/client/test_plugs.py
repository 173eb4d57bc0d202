"""FedProx's pull, SCAFFOLD's variate and the file that keeps it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fairfal_flwr.client.plug import Plug
from fairfal_flwr.client.proximal import ProximalPull, pull_to_global
from fairfal_flwr.client.scaffold import (
    ControlVariate,
    DriftControl,
    Variates,
    step_sum,
)
from fairfal_flwr.client.training import LabeledImages, Trained, train_round
from fairfal_flwr.config import TrainConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import TrainRequest
from fairfal_flwr.models import Classifier, build_model

SETTINGS = TrainConfig(epochs=2, batch_size=6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=12):
    inputs = torch.randn(count, 1, 16, 16, generator=generator(1))
    return LabeledImages(inputs, torch.arange(count) % 3)


def network(seed=0):
    return build_model(
        "cnn4", in_channels=1, image_size=(16, 16), num_classes=3, seed=seed
    )


def linear():
    """Return the smallest classifier, always the same."""
    head = nn.Linear(256, 3)
    nn.init.constant_(head.weight, 0.01)
    nn.init.zeros_(head.bias)
    return Classifier(nn.Flatten(), head)


class Correction(Plug):
    """Any function between backward pass and step."""

    def __init__(self, correct):
        self.correct = correct


def train(model, *plugs, settings=SETTINGS):
    return train_round(
        model, noise(), settings, lr=0.01, generator=generator(), listeners=plugs
    )


def same(first, second):
    other = second.state_dict()
    return all(torch.equal(w, other[name]) for name, w in first.state_dict().items())


def test_no_weight_means_no_pull_at_all():
    request = SimpleNamespace(proximal_mu=0.0)
    assert pull_to_global(SimpleNamespace(request=request), network()) is None
    request.proximal_mu = 0.1
    assert isinstance(
        pull_to_global(SimpleNamespace(request=request), network()), ProximalPull
    )


def test_the_pull_is_the_gradient_of_the_squared_distance():
    """The objective with the term written out gives the same steps."""
    mu, pulled, explicit = 0.7, linear(), linear()
    anchors = [p.detach().clone() for p in explicit.parameters()]

    def objective(model, batch):
        distance = sum(
            ((p - a) ** 2).sum()
            for p, a in zip(model.parameters(), anchors, strict=True)
        )
        return cross_entropy(model(batch.inputs), batch.labels) + mu / 2 * distance

    train(pulled, ProximalPull(pulled, mu))
    train_round(
        explicit,
        noise(),
        SETTINGS,
        lr=0.01,
        generator=generator(),
        objective=objective,
    )
    for ours, theirs in zip(pulled.parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_strong_pull_keeps_the_model_near_the_global_one():
    def distance(mu):
        model, start = linear(), linear()
        train(model, ProximalPull(model, mu))
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return sum(float(((a - b) ** 2).sum().detach()) for a, b in pairs)

    assert distance(10.0) < distance(1.0) < distance(0.0)


def test_zero_variates_change_nothing_bit_by_bit():
    plain, corrected = network(), network()
    zeros = {n: torch.zeros_like(p) for n, p in corrected.named_parameters()}
    train(plain)
    train(corrected, Correction(ControlVariate(corrected, zeros, {}).correct))
    assert same(plain, corrected)


def test_the_variate_covers_parameters_and_not_batchnorms_buffers():
    model = network()
    zeros = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    variate = ControlVariate(model, zeros, {})
    train(model, Correction(variate.correct))
    new = variate.updated(lr=0.01, steps=4, momentum=0.9)
    assert set(new) == {n for n, _ in model.named_parameters()}
    assert not any("running" in name for name in new)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_new_variate_is_the_mean_gradient_under_momentum(momentum):
    """A loss that is linear in the weights has the same gradient at every step.

    The loss is <g, W>; its gradient g is what the variate must become, whatever c and
    c_k were, since the correction c - c_k moved the model as well.
    """
    head = nn.Linear(2, 2, bias=False)
    model = Classifier(nn.Flatten(), head)
    slope = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    settings = TrainConfig(epochs=4, batch_size=1, momentum=momentum, weight_decay=0.0)
    variate = ControlVariate(
        model, {"head.weight": torch.ones(2, 2)}, {"head.weight": -slope}
    )
    train_round(
        model,
        LabeledImages(torch.zeros(1, 1, 1, 2), torch.tensor([0])),
        settings,
        lr=0.1,
        generator=generator(),
        objective=lambda model, _: (model.head.weight * slope).sum(),
        listeners=[Correction(variate.correct)],
    )
    new = variate.updated(lr=0.1, steps=4, momentum=momentum)
    torch.testing.assert_close(new["head.weight"], slope)


def test_step_sum_is_what_momentum_sgd_walks_along_a_constant_gradient():
    velocity = position = 0.0
    for _ in range(7):
        velocity = 0.9 * velocity + 1.0
        position += velocity
    assert step_sum(7, 0.9) == pytest.approx(position)


def drift_control(tmp_path, model, number=1, used=None):
    server = {n: torch.full_like(p, 0.5) for n, p in model.named_parameters()}
    kept = Variates(tmp_path / "client-0000.sqlite")
    request = TrainRequest(
        *("c", {}, 1, number, 0.01), saved=[0, 0], accepted=used and list(used)
    )
    variate = ControlVariate(model, server, kept.read(used))
    return DriftControl(variate, kept, request, momentum=0.9)


def test_the_change_that_is_sent_is_the_one_between_the_two_variates_kept(tmp_path):
    model = linear()
    first = drift_control(tmp_path, model)
    change = first.finish(train(model, first))["variate"]
    kept = Variates(tmp_path / "client-0000.sqlite")
    before = kept.read((1, 1))
    assert all(torch.equal(change[n], before[n]) for n in before)  # from zero
    second = drift_control(tmp_path, model, 2, used=(1, 1))
    change = second.finish(train(model, second))["variate"]
    after = kept.read((1, 2))
    assert any(v.any() for v in change.values())
    assert all(torch.equal(change[n], after[n] - before[n]) for n in before)


def test_without_a_step_a_variate_stays_and_nothing_is_written(tmp_path):
    plug = drift_control(tmp_path, linear())
    change = plug.finish(Trained(loss=0.0, steps=0))["variate"]
    assert not any(value.any() for value in change.values())
    assert not list(tmp_path.iterdir())


def weights(value):
    return {"a.weight": torch.full((2, 3), value), "a.bias": torch.tensor([value])}


def test_each_update_has_its_variate_and_the_start_has_none(tmp_path):
    kept = Variates(tmp_path / "client-0000.sqlite")
    assert kept.read(None) == kept.read((1, 7)) == {}
    kept.write((1, 1), weights(1.0))
    kept.write((1, 2), weights(2.0))
    again = Variates(tmp_path / "client-0000.sqlite")
    assert torch.equal(again.read((1, 1))["a.weight"], torch.full((2, 3), 1.0))
    assert torch.equal(again.read((1, 2))["a.bias"], torch.tensor([2.0]))
    assert again.read((1, 3)) == again.read(None) == {}


@pytest.mark.parametrize(
    ("checkpoint", "used", "left"),
    [
        ((0, 0), None, [1, 2, 3, 4]),
        ((1, 2), (1, 1), [1, 3, 4]),  # 2 was dropped; a run from 2 names 1
        ((1, 2), (1, 2), [2, 3, 4]),
        (
            (1, 2),
            (1, 3),
            [1, 2, 3, 4],
        ),  # which of 1 and 2 the checkpoint names: unknown
        ((1, 3), None, [4]),
        ((2, 0), None, []),
        ((9, 9), (1, 4), [4]),
    ],
)
def test_what_the_server_cannot_name_again_is_forgotten(
    tmp_path, checkpoint, used, left
):
    kept = Variates(tmp_path / "client-0000.sqlite")
    for number in (1, 2, 3, 4):
        kept.write((1, number), weights(float(number)))
    kept.prune(checkpoint, used)
    assert kept.files.moments() == [(1, number) for number in left]


def test_a_variate_that_cannot_be_written_is_a_users_mistake(tmp_path):
    kept = Variates(tmp_path / "missing" / "client-0000.sqlite")
    with pytest.raises(UserError, match="`state-dir`"):
        kept.write((1, 1), weights(1.0))
