"""The training loop: schedules, stops, plugs and determinism."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fairfal_flwr.client import training
from fairfal_flwr.client.plug import Plug
from fairfal_flwr.client.sgd import SGD
from fairfal_flwr.client.training import (
    EpochLoss,
    LabeledImages,
    steps_per_epoch,
    train_local_model,
    train_round,
)
from fairfal_flwr.config import DistillConfig, LocalConfig, TrainConfig
from fairfal_flwr.models import Classifier, as_input, build_model, predict


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(count=60, num_classes=3):
    """Images whose brightness tells their class."""
    labels = torch.arange(count) % num_classes
    noise = torch.randn(count, 1, 16, 16, generator=generator(1))
    inputs = labels.float()[:, None, None, None] * 2 + 0.1 * noise
    return LabeledImages(inputs, labels)


def small_model(seed=0, num_classes=3):
    return build_model(
        "cnn4", in_channels=1, image_size=(16, 16), num_classes=num_classes, seed=seed
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_one_step_is_sgd_by_hand():
    """Loss = -log softmax(W x)[y] at W = 0: the gradient is (1/2 - onehot(y)) x^T."""
    head = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(head.weight)
    model = Classifier(nn.Flatten(), head)
    data = LabeledImages(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([0]))
    settings = TrainConfig(epochs=1, weight_decay=0.0)
    trained = train_round(model, data, settings, lr=0.1, generator=generator())
    assert trained.loss == pytest.approx(0.6931, abs=1e-4)
    assert trained.steps == 1
    expected = torch.tensor([[0.05, 0.15], [-0.05, -0.15]])
    torch.testing.assert_close(head.weight.detach(), expected)


def test_same_generator_same_weights():
    trained = []
    for _ in range(2):
        model = small_model()
        train_round(
            model,
            blobs(),
            TrainConfig(horizontal_flip=True),
            lr=0.01,
            generator=generator(),
        )
        trained.append(weights(model))
    assert torch.equal(*trained)


def test_training_lowers_the_loss():
    model, data, settings = small_model(), blobs(), TrainConfig(batch_size=10)
    first = train_round(model, data, settings, lr=0.01, generator=generator())
    last = train_round(model, data, settings, lr=0.01, generator=generator())
    assert last.loss < first.loss


def test_gradient_corrections_act_before_the_step():
    """A correction that cancels the gradient leaves only weight decay, here none."""
    model = small_model()
    before = weights(model)

    def cancel():
        for parameter in model.parameters():
            parameter.grad.zero_()

    listener = Plug()
    listener.correct = cancel

    settings = TrainConfig(weight_decay=0.0, epochs=2)
    train_round(
        model,
        blobs(),
        settings,
        lr=0.1,
        generator=generator(),
        listeners=[listener],
    )
    assert torch.equal(weights(model), before)


def test_the_objective_can_be_replaced():
    def constant(model, batch):
        return 0 * model(batch.inputs).sum() + 2

    trained = train_round(
        small_model(),
        blobs(),
        TrainConfig(),
        lr=0.1,
        generator=generator(),
        objective=constant,
    )
    assert trained.loss == pytest.approx(2.0)


def test_a_last_batch_of_one_image_trains():
    train_round(
        small_model(),
        blobs(count=11),
        TrainConfig(batch_size=10),
        lr=0.01,
        generator=generator(),
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_network_that_needs_two_images_gets_them(count, batch_size):
    flat = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    model = Classifier(flat, nn.Linear(4, 3), smallest_batch=2)
    data = LabeledImages(torch.rand(count, 1, 2, 2), torch.arange(count))
    settings = TrainConfig(batch_size=batch_size)
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", lambda optimizer: steps.append(optimizer.lr))
        trained = train_round(model, data, settings, lr=0.01, generator=generator())
    assert len(steps) == settings.epochs * steps_per_epoch(count, batch_size, 2)
    if count == 1:  # twice the same image: normalized, it is zero
        expected = cross_entropy(model.head.bias.detach()[None], data.labels)
        assert trained.loss == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(
    ("unit", "milestone", "smallest", "steps_before"),
    [("step", 2, 1, 2), ("epoch", 2, 1, 4), ("epoch", 2, 3, 2)],
)
def test_the_local_learning_rate_drops_at_its_milestone(
    unit, milestone, smallest, steps_before
):
    """Three epochs of two steps, or one where that takes three images.

    Features of zero keep the accuracy at one half.
    """
    head = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(head.weight)
    model = Classifier(nn.Flatten(), head, smallest_batch=smallest)
    data = LabeledImages(torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 1, 1]))
    settings = TrainConfig(
        batch_size=2, lr=1.0, momentum=0.0, weight_decay=0.0, lr_decay=1e-9
    )
    local = LocalConfig(
        max_epochs=3, stop_accuracy=1.0, lr_milestone=milestone, lr_milestone_unit=unit
    )
    rates = []
    original = SGD.step

    def record(self):
        original(self)
        rates.append(self.lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", record)
        train_local_model(model, data, settings, local, generator=generator())
    assert rates[:steps_before] == [1.0] * steps_before
    assert rates[steps_before:] == [pytest.approx(1e-9)] * (len(rates) - steps_before)


def test_the_local_model_stops_once_it_knows_its_labels():
    epochs = train_local_model(
        small_model(),
        blobs(),
        TrainConfig(batch_size=10),
        LocalConfig(lr_milestone=1000),
        generator=generator(),
    )
    assert 1 <= epochs < 50


def test_mirrored_rows_are_flipped_and_no_others():
    images = torch.arange(4.0).view(2, 1, 1, 2)
    taken = LabeledImages(images, torch.tensor([5, 6])).take(
        torch.tensor([1, 0]), mirrored=torch.tensor([True, False])
    )
    assert taken.inputs.flatten().tolist() == [3.0, 2.0, 0.0, 1.0]
    assert taken.labels.tolist() == [6, 5]


def test_as_input_normalizes_each_channel():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    normalized = as_input(images, mean=(0.5, 0.25), std=(0.5, 0.25))
    assert normalized.flatten().tolist() == [-1.0, 3.0]


def test_predict_leaves_mode_and_weights_and_needs_no_batch_size(monkeypatch):
    model = small_model().train()
    images = torch.randint(0, 256, (9, 1, 16, 16), generator=generator()).byte()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    probs, features = predict(model, images, (0.5,), (0.5,))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert (probs.shape, features.shape) == ((9, 3), (9, 64))
    monkeypatch.setattr("fairfal_flwr.models.inference.BATCH_SIZE", 2)
    torch.testing.assert_close(predict(model, images, (0.5,), (0.5,))[0], probs)


def test_predict_of_no_image_is_empty():
    images = torch.zeros(0, 1, 16, 16, dtype=torch.uint8)
    probs, features = predict(small_model(), images, (0.5,), (0.5,))
    assert (probs.shape, features.shape) == ((0, 3), (0, 64))


def test_initialization_follows_its_seed_and_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    assert torch.equal(weights(small_model(1)), weights(small_model(1)))
    assert not torch.equal(weights(small_model(1)), weights(small_model(2)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("size", "features"), [(16, 64), (28, 64), (32, 256)])
def test_cnn4_has_the_papers_number_of_features(size, features):
    model = build_model(
        "cnn4", in_channels=3, image_size=(size, size), num_classes=7, seed=0
    )
    assert model.head.in_features == features
    assert not model.head.bias.any()


def test_cnn4_refuses_images_that_it_would_halve_to_nothing():
    with pytest.raises(ValueError, match="at least 16x16"):
        build_model("cnn4", in_channels=1, image_size=(8, 28), num_classes=2, seed=0)


@pytest.mark.parametrize(
    ("losses", "quirks", "epochs", "kept"),
    [
        ([3.0, 1.0, 2.0, 1.0], "faithful", 4, 4.0),
        ([3.0, 1.0, 2.0, 1.0], "corrected", 4, 2.0),
        ([3.0, 2.0, 2.5, 1.0, 0.5], "faithful", 5, 5.0),
        ([3.0, 2.0, 2.5, 1.0, 1.5], "corrected", 5, 4.0),
    ],
)
def test_distillation_ends_with_the_last_model_or_with_the_best(
    monkeypatch, losses, quirks, epochs, kept
):
    """The epochs are played: epoch n leaves the weight n behind; patience is 2."""
    left = iter(enumerate(losses, start=1))

    def play(model, *_arguments, **_keywords):
        number, loss = next(left)
        model.weight.data.fill_(number)
        return EpochLoss(over_images=loss, over_batches=loss)

    monkeypatch.setattr(training, "_epoch", play)
    model = torch.nn.Linear(1, 1, bias=False)
    trained = training.train_distilled_model(
        model,
        None,
        TrainConfig(),
        DistillConfig(max_epochs=5, patience=2, quirks=quirks),
        objective=None,
        generator=torch.Generator(),
    )
    assert (trained, model.weight.item()) == (epochs, kept)


@pytest.mark.parametrize(("quirks", "epochs"), [("faithful", 4), ("corrected", 3)])
def test_distillation_watches_the_mean_over_batches_or_over_images(
    monkeypatch, quirks, epochs
):
    """By batches epoch 2 is the best, by images the first; patience is 2."""
    means = iter([(1.0, 3.0), (2.0, 1.0), (2.0, 2.0), (2.0, 2.0), (0.0, 0.0)])
    monkeypatch.setattr(training, "_epoch", lambda *_, **__: EpochLoss(*next(means)))
    trained = training.train_distilled_model(
        torch.nn.Linear(1, 1),
        None,
        TrainConfig(),
        DistillConfig(max_epochs=9, patience=2, quirks=quirks),
        objective=None,
        generator=torch.Generator(),
    )
    assert trained == epochs


def test_an_epoch_has_a_mean_over_images_and_one_over_batches():
    """Three images in batches of two: the short batch counts as much, or half."""
    labels = torch.tensor([0, 1, 2])
    data = LabeledImages(torch.zeros(3, 1, 1, 1), labels)
    model = Classifier(nn.Flatten(), nn.Linear(1, 3))
    settings = TrainConfig(batch_size=2, lr=1e-9, momentum=0.0, weight_decay=0.0)
    optimizer = training._optimizer(model, settings, 1e-9)
    seen = []

    def sizes(network, batch):
        seen.append(float(len(batch)))
        return network(batch.inputs).sum() * 0 + float(len(batch))

    means = training._epoch(
        model, data, optimizer, settings, generator(), objective=sizes
    )
    assert sorted(seen) == [1.0, 2.0]
    assert means == (pytest.approx(5 / 3), pytest.approx(3 / 2))


class Left(nn.Module):
    """Knows an image by its left pixel: mirrored, it is taken for the other class."""

    def forward(self, inputs):
        left = inputs[:, 0, 0, 0]
        return torch.stack([left, 1 - left], dim=1)


@pytest.mark.parametrize(
    ("quirks", "flips", "stops"),
    [("faithful", True, False), ("corrected", True, True), ("faithful", False, True)],
)
def test_the_local_model_stops_on_mirrored_images_as_published(
    monkeypatch, quirks, flips, stops
):
    """The model knows all images as they are, and none that is mirrored."""
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 8).view(16, 1, 1, 2)
    data = LabeledImages(inputs, torch.tensor([0, 1] * 8))
    monkeypatch.setattr(training, "_epoch", lambda *_, **__: EpochLoss(0.0, 0.0))
    model = Left()
    model.weight, model.smallest_batch = nn.Parameter(torch.zeros(1)), 1
    epochs = train_local_model(
        model,
        data,
        TrainConfig(horizontal_flip=flips),
        LocalConfig(max_epochs=3, stop_accuracy=0.99, quirks=quirks),
        generator=generator(),
    )
    assert epochs == (1 if stops else 3)
