"""The losses: worked by hand, and what they must not do."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from fairfal_flwr.client import objectives
from fairfal_flwr.client.distillation import distillation
from fairfal_flwr.client.objectives import OBJECTIVES
from fairfal_flwr.client.objectives.alignment import alignment_loss
from fairfal_flwr.client.objectives.kcfu import class_weights, kcfu_loss
from fairfal_flwr.client.training import LabeledImages, supervised_loss
from fairfal_flwr.client.unlabeled import mirrored_at_random, random_batches
from fairfal_flwr.config import RunConfig
from fairfal_flwr.models import Classifier


def linear(*rows):
    """Return a network whose logits are W x."""
    weight = torch.tensor(rows)
    head = nn.Linear(weight.shape[1], len(weight), bias=False)
    head.weight.data = weight
    return Classifier(nn.Flatten(), head)


def images(*rows):
    return torch.tensor(rows)[:, None, None, :]


CLIENT = linear([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])
SERVER = linear([0.0, 2.0], [1.0, 0.0], [0.0, 0.0])
BATCH = LabeledImages(images([1.0, 2.0], [0.0, -1.0]), torch.tensor([0, 1]))
UNLABELED = images([1.0, 0.0], [0.0, 1.0], [2.0, 1.0])


def kl(p, q):
    return float((p * (p / q).log()).sum().detach())


def test_distillation_is_a_weighted_sum_of_its_two_losses():
    logits, known = CLIENT(BATCH.inputs), SERVER(BATCH.inputs)
    divergence = sum(
        kl(softmax(t / 4, dim=0), softmax(z / 4, dim=0))
        for t, z in zip(known, logits, strict=True)
    )
    expected = 0.1 * cross_entropy(logits, BATCH.labels) + 0.9 * 16 * divergence / 2
    loss = distillation(SERVER, temperature=4.0, weight=0.9)
    assert loss(CLIENT, BATCH).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_without_weight_is_the_supervised_loss():
    loss = distillation(SERVER, temperature=2.0, weight=0.0)
    torch.testing.assert_close(loss(CLIENT, BATCH), supervised_loss(CLIENT, BATCH))


def test_class_weights_go_by_rarity_and_leave_out_the_unseen():
    weights = class_weights(torch.tensor([4, 0, 1]))
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.0, 0.8]))


def test_kcfu_starts_as_the_balanced_softmax():
    """CE(z + log n, y), where class 2 has no label and so no share of the softmax."""
    counts = torch.tensor([3, 1, 0])
    loss = kcfu_loss(SERVER, counts, lambda _: UNLABELED, None, None)
    logits = CLIENT(BATCH.inputs)
    shares = torch.tensor([3.0, 1.0]) * logits[:, :2].exp()
    shares = shares / shares.sum(dim=1, keepdim=True)
    expected = -(shares[0, 0].log() + shares[1, 1].log()) / 2
    torch.testing.assert_close(loss(CLIENT, BATCH), expected)


@pytest.mark.parametrize("quirks", ["faithful", "corrected"])
def test_kcfu_compensates_where_the_server_sees_a_rare_class(quirks):
    """The slow way, image by image, with the same random numbers."""
    counts = torch.tensor([3, 1, 0])
    rows = np.array([0, 1, 2])
    supervised = kcfu_loss(SERVER, counts, lambda _: UNLABELED, None, None)
    loss = kcfu_loss(
        SERVER,
        counts,
        lambda rows: UNLABELED[torch.from_numpy(rows)],
        itertools.repeat(rows),
        np.random.default_rng(5),
        quirks=quirks,
    )
    rng = np.random.default_rng(5)
    if quirks == "faithful":
        partners = [int(rng.integers(3))] * 3
    else:
        partners = rng.permutation(3).tolist()
    shares = rng.beta(2.0, 2.0, 3).tolist()
    mixed = [
        share * UNLABELED[i] + (1 - share) * UNLABELED[j]
        for i, (j, share) in enumerate(zip(partners, shares, strict=True))
    ]
    known = [SERVER(image[None])[0] for image in mixed]
    gamma = [0.25, 0.75, 0.0]
    terms = []
    for i, (j, share) in enumerate(zip(partners, shares, strict=True)):
        weight = share * gamma[known[i].argmax()]
        weight += (1 - share) * gamma[known[j].argmax()]
        p, q = softmax(known[i], dim=0), softmax(CLIENT(mixed[i][None])[0], dim=0)
        terms.append(weight * kl(p, q) / 3)
    compensation = (loss(CLIENT, BATCH) - supervised(CLIENT, BATCH)).item()
    assert compensation == pytest.approx(sum(terms) / 3, rel=1e-4)


@pytest.mark.parametrize("quirks", ["faithful", "corrected"])
def test_kcfu_asks_a_server_that_trains_or_one_that_does_not(quirks):
    """Its BatchNorm goes by the batch, or by what it has seen in training."""

    def normalizing():
        norm = nn.BatchNorm1d(2)
        norm.running_mean, norm.running_var = torch.ones(2), torch.full((2,), 4.0)
        return Classifier(nn.Sequential(nn.Flatten(), norm), SERVER.head)

    rows = np.array([0, 1, 2])
    loss, supervised = (
        kcfu_loss(
            normalizing(),
            torch.tensor([3, 1, 0]),
            lambda rows: UNLABELED[torch.from_numpy(rows)],
            batches,
            np.random.default_rng(5),
            quirks=quirks,
        )
        for batches in (itertools.repeat(rows), None)
    )
    rng = np.random.default_rng(5)
    faithful = quirks == "faithful"
    partners = [int(rng.integers(3))] * 3 if faithful else rng.permutation(3).tolist()
    shares = rng.beta(2.0, 2.0, 3).tolist()
    mixed = torch.stack(
        [
            share * UNLABELED[i] + (1 - share) * UNLABELED[j]
            for i, (j, share) in enumerate(zip(partners, shares, strict=True))
        ]
    ).flatten(1)
    mean, var = torch.ones(2), torch.full((2,), 4.0)
    if faithful:
        mean, var = mixed.mean(dim=0), mixed.var(dim=0, unbiased=False)
    known = (mixed - mean) / (var + 1e-5).sqrt() @ SERVER.head.weight.T
    gamma, total = [0.25, 0.75, 0.0], 0.0
    for i, (j, share) in enumerate(zip(partners, shares, strict=True)):
        weight = share * gamma[known[i].argmax()]
        weight += (1 - share) * gamma[known[j].argmax()]
        own = CLIENT(mixed[i][None, None, None])[0]
        total += weight * kl(softmax(known[i], dim=0), softmax(own, dim=0)) / 9
    compensation = (loss(CLIENT, BATCH) - supervised(CLIENT, BATCH)).item()
    assert compensation == pytest.approx(total, rel=1e-4)


def test_images_are_mirrored_at_random_by_the_generator():
    inputs = mirrored_at_random(
        lambda rows: UNLABELED[torch.from_numpy(rows)], np.random.default_rng(4)
    )
    rows = np.array([2, 0, 1, 2, 0, 1])
    coins = np.random.default_rng(4).random(6) < 0.5
    assert 0 < coins.sum() < 6
    for image, row, coin in zip(inputs(rows), rows, coins, strict=True):
        assert image.equal(UNLABELED[row].flip(-1) if coin else UNLABELED[row])


@pytest.mark.parametrize(
    ("quirks", "flips", "mirrored"),
    [("faithful", True, True), ("faithful", False, False), ("corrected", True, False)],
)
def test_kcfu_mirrors_where_training_does_as_published(
    monkeypatch, quirks, flips, mirrored
):
    asked = []
    module = "fairfal_flwr.client.objectives.kcfu"
    monkeypatch.setattr(f"{module}.pool_inputs", lambda this: asked.append)
    monkeypatch.setattr(f"{module}.pool_batches", lambda *_: None)
    monkeypatch.setattr(f"{module}.mirrored_at_random", lambda inputs, rng: "mirrored")
    monkeypatch.setattr(
        f"{module}.kcfu_loss", lambda server, counts, unlabeled, *_, **__: unlabeled
    )
    keys = {"train.objective": "kcfu", "kcfu.quirks": quirks}
    this = SimpleNamespace(
        config=RunConfig.from_flat({**keys, "train.horizontal-flip": flips}),
        index=0,
        request=SimpleNamespace(cycle=1, round=2, weights=None),
        networks=SimpleNamespace(with_weights=lambda weights: SERVER),
        label_counts=None,
    )
    assert (OBJECTIVES["kcfu"].make(this) == "mirrored") == mirrored


def test_kcfu_has_finite_gradients_with_classes_unseen():
    model = linear([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])
    loss = kcfu_loss(
        SERVER,
        torch.tensor([3, 1, 0]),
        lambda rows: UNLABELED[torch.from_numpy(rows)],
        random_batches(3, 2, np.random.default_rng(1)),
        np.random.default_rng(2),
    )
    loss(model, BATCH).backward()
    assert torch.isfinite(model.head.weight.grad).all()
    assert model.head.weight.grad.any()
    assert SERVER.head.weight.grad is None


@pytest.mark.parametrize(
    ("quirks", "changes", "targets"),
    [
        ("faithful", [2, 0, 2], [0, 0, 0]),
        ("corrected", [2, 0, 2], [0, 1, 0]),
        ("corrected", [2, 0, 1], [0, 1, 0]),  # the last is just at the mean
    ],
)
def test_alignment_pulls_to_the_server_or_to_the_past(quirks, changes, targets):
    """Mean variation 4/3 or 1: only the second image, with 0, looks back."""
    previous = linear([1.0, 1.0], [0.0, 0.0], [0.0, 1.0])
    loss = alignment_loss(
        SERVER,
        previous,
        torch.tensor(changes),
        lambda rows: UNLABELED[torch.from_numpy(rows)],
        itertools.repeat(np.array([0, 1, 2])),
        weight=0.3,
        temperature=0.5,
        quirks=quirks,
    )

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    total = 0.0
    for image, target in zip(UNLABELED, targets, strict=True):
        own, server, past = (m(image[None])[0] for m in (CLIENT, SERVER, previous))
        scores = torch.tensor([cosine(own, server), cosine(own, past)]) / 0.5
        total += float(cross_entropy(scores[None], torch.tensor([target]))) / 3
    expected = float(supervised_loss(CLIENT, BATCH)) + 0.3 * total
    assert float(loss(CLIENT, BATCH)) == pytest.approx(expected, rel=1e-5)


def test_random_batches_go_over_all_rows_and_start_again_in_another_order():
    """Of 60 rows each pass takes three batches of 20, all of them, newly shuffled."""
    batches = random_batches(60, 20, np.random.default_rng(0))
    first, second = (np.concatenate([next(batches) for _ in range(3)]) for _ in "ab")
    assert sorted(first) == sorted(second) == list(range(60))
    assert not np.array_equal(first, second)


def test_random_batches_drop_what_is_left_of_a_pass():
    batches = random_batches(7, 3, np.random.default_rng(0))
    passes = [[*next(batches), *next(batches)] for _ in range(20)]
    assert all(len(set(rows)) == 6 for rows in passes)
    assert len({frozenset(range(7)).difference(rows) for rows in passes}) > 1


def test_random_batches_repeat_rows_where_a_network_needs_more():
    batches = random_batches(1, 1, np.random.default_rng(0), smallest=2)
    assert next(batches).tolist() == next(batches).tolist() == [0, 0]
    batches = random_batches(3, 1, np.random.default_rng(0), smallest=2)
    assert len(set(next(batches).tolist())) == 2


def test_random_batches_of_few_rows_are_all_of_them():
    batches = random_batches(2, 64, np.random.default_rng(0))
    assert [sorted(next(batches)) for _ in range(2)] == [[0, 1], [0, 1]]


def test_every_file_of_objectives_registers_one():
    folder = Path(objectives.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "registry"}
    registered = {entry.function.__module__ for entry in OBJECTIVES.values()}
    assert {f"{objectives.__name__}.{file}" for file in files} == registered


def test_the_config_names_the_objectives_and_their_options():
    """The section of an objective has its name."""
    for name, entry in OBJECTIVES.items():
        RunConfig.from_flat({"train.objective": name})
        prefix = f"{name}."
        keys = {
            key.removeprefix(prefix).replace("-", "_"): value
            for key, value in RunConfig().to_flat().items()
            if key.startswith(prefix)
        }
        assert keys == {o.name: o.default for o in entry.options.values()}
