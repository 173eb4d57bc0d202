"""FedProx's pull, SCAFFOLD's variate and the file that keeps it."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from fairfal_flwr.client.plug import Plug
from fairfal_flwr.client.proximal import ProximalPull, pull_to_global
from fairfal_flwr.client.scaffold import (
    ControlVariate,
    DriftControl,
    VariateFile,
    step_sum,
)
from fairfal_flwr.client.training import LabeledImages, Trained, train_round
from fairfal_flwr.config import TrainConfig
from fairfal_flwr.errors import UserError
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


def drift_control(tmp_path, model, used=""):
    server = {n: torch.full_like(p, 0.5) for n, p in model.named_parameters()}
    file = VariateFile(tmp_path / "c.safetensors")
    variate = ControlVariate(model, server, file.read(used))
    return DriftControl(variate, file, lr=0.01, momentum=0.9, used=used, new=used + "1")


def test_the_change_that_is_sent_is_the_one_between_the_two_variates_kept(tmp_path):
    model = linear()
    first = drift_control(tmp_path, model)
    change = first.finish(train(model, first))["variate"]
    kept = VariateFile(tmp_path / "c.safetensors").read("1")
    assert all(torch.equal(change[n], kept[n]) for n in kept)  # from zero
    second = drift_control(tmp_path, model, used="1")
    change = second.finish(train(model, second))["variate"]
    after = VariateFile(tmp_path / "c.safetensors").read("11")
    assert any(v.any() for v in change.values())
    assert all(torch.equal(change[n], after[n] - kept[n]) for n in kept)


def test_without_a_step_a_variate_stays_and_nothing_is_written(tmp_path):
    plug = drift_control(tmp_path, linear())
    change = plug.finish(Trained(loss=0.0, steps=0))["variate"]
    assert not any(value.any() for value in change.values())
    assert not list(tmp_path.iterdir())


def weights(value):
    return {"a.weight": torch.full((2, 3), value), "a.bias": torch.tensor([value])}


def test_the_file_gives_back_the_two_updates_it_knows_and_nothing_else(tmp_path):
    file = VariateFile(tmp_path / "c.safetensors")
    assert file.read("") == file.read("7") == {}
    file.write(used=("", {}), new=("1", weights(1.0)))
    file.write(used=("1", weights(1.0)), new=("2", weights(2.0)))
    again = VariateFile(file.path)
    assert torch.equal(again.read("1")["a.weight"], torch.full((2, 3), 1.0))
    assert torch.equal(again.read("2")["a.bias"], torch.tensor([2.0]))
    assert again.read("3") == again.read("") == {}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_file_that_cannot_be_written_is_a_users_mistake(tmp_path):
    file = VariateFile(tmp_path / "missing" / "c.safetensors")
    with pytest.raises(UserError, match="`state-dir`"):
        file.write(used=("", {}), new=("1", weights(1.0)))


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = VariateFile(tmp_path / "c.safetensors")
    file.write(used=("", {}), new=("1", weights(1.0)))

    def crash(tensors, path, metadata):
        save_file({}, path)
        raise RuntimeError("no power")

    monkeypatch.setattr("fairfal_flwr.client.tensor_file.save_file", crash)
    with pytest.raises(RuntimeError):
        file.write(used=("1", weights(1.0)), new=("2", weights(2.0)))
    assert torch.equal(file.read("1")["a.bias"], torch.tensor([1.0]))
