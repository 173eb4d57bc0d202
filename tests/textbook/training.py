"""Training: one client's, and what a server makes of many."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, log_softmax

from fairfal_flwr.randomness import numpy_generator, torch_generator
from textbook.world import (
    CNN4,
    Client,
    LastRound,
    Settings,
    Weights,
    World,
    predictions,
    shown,
    weights_of,
    with_weights,
)

Loss = Callable[[CNN4, Tensor, Tensor], Tensor]


# -------------------- Local training


class SGD:
    """v ← m v + (g + λ w), w ← w - η v, where η may depend on the steps made."""

    def __init__(self, network: CNN4, settings: Settings, lr: Callable[[int], float]):
        self.parameters = list(network.parameters())
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.momentum = settings["train.momentum"]
        self.weight_decay = settings["train.weight-decay"]
        self.lr, self.steps = lr, 0

    @torch.no_grad()
    def step(self) -> None:
        lr = self.lr(self.steps)
        for w, v in zip(self.parameters, self.velocities, strict=True):
            gradient = w.grad.add(w, alpha=self.weight_decay)
            v.mul_(self.momentum).add_(gradient)
            w.add_(v, alpha=-lr)
            w.grad = None
        self.steps += 1


def supervised(network: CNN4, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return cross_entropy(network(inputs), labels)


def no_penalty(_network: CNN4) -> float:
    return 0.0


def train_epoch(
    network: CNN4,
    inputs: Tensor,
    labels: Tensor,
    settings: Settings,
    optimizer: SGD,
    generator: torch.Generator,
    loss: Loss = supervised,
    penalty: Callable[[CNN4], Tensor | float] = no_penalty,
    *,
    by_batch: bool = False,
) -> float:
    """Go once over the labels, shuffled and perhaps mirrored; return the mean loss.

    A penalty is minimized as well, but does not count in the mean, which is over the
    images, or over the batches.
    """
    network.train()
    size = settings["train.batch-size"]
    order = torch.randperm(len(labels), generator=generator)
    if settings["train.horizontal-flip"]:
        coins = torch.rand(len(labels), generator=generator)
        inputs = inputs.clone()
        for i in range(len(inputs)):
            if coins[i] < 0.5:
                inputs[i] = inputs[i].flip(-1)
    total, values = 0.0, []
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        value = loss(network, inputs[batch], labels[batch])
        (value + penalty(network)).backward()
        optimizer.step()
        values.append(float(value.detach()))
        total += values[-1] * len(batch)
    return mean(values) if by_batch else total / len(labels)


def endless_batches(size: int, batch_size: int, rng: Any) -> Any:
    """Yield batches of 0 … size - 1 for ever, in a new order at every pass.

    What a pass leaves over for less than a batch is dropped, unless it is all.
    """
    while True:
        order = rng.permutation(size).tolist()
        whole = max(1, size // batch_size)
        for number in range(whole):
            yield order[number * batch_size : (number + 1) * batch_size]


def kcfu(
    world: World,
    client: Client,
    weights: Weights,
    settings: Settings,
    cycle: int,
    round_number: int,
) -> Loss:
    """KAFAL's loss: a balanced softmax, and compensation for classes that are rare.

    Supervised: cross-entropy of z + log n, where n counts the client's labels by class.
    Compensation, from the second round of a cycle on: unlabeled images x are mixed with
    a partner x', x̃ = β x + (1 - β) x', and the network is pulled towards the server's
    view of x̃ by KL(server ‖ client), averaged over the classes; the more so the rarer
    the classes ŷ and ŷ' of the two mixed images are: β γ_ŷ + (1 - β) γ_ŷ', γ ∝ 1/n.
    The published code mirrors the images, and its server stays in training mode.
    """
    faithful = settings["kcfu.quirks"] == "faithful"
    server = with_weights(world, weights).train(faithful)
    rng = numpy_generator(settings["seed"], "kcfu", cycle, round_number, client.index)
    counts = Counter(client.known)
    n = torch.tensor([float(counts[c]) for c in range(world.num_classes)])
    gamma = torch.tensor(
        [1 / (counts[c] + 1e-6) if counts[c] else 0.0 for c in range(len(n))]
    )
    gamma /= gamma.sum()
    pool = client.pool
    batches = endless_batches(len(pool), settings["train.batch-size"], rng)

    def compensation(network: CNN4) -> Tensor:
        images = [client.inputs[pool[i]] for i in next(batches)]
        size = len(images)
        if faithful and settings["train.horizontal-flip"]:
            coins = rng.random(size) < 0.5
            images = [x.flip(-1) if c else x for x, c in zip(images, coins)]  # noqa: B905
        if faithful:  # one partner for the whole batch
            partners = [int(rng.integers(size))] * size
        else:
            partners = rng.permutation(size).tolist()
        beta = rng.beta(settings["kcfu.beta"], settings["kcfu.beta"], size)
        share = torch.tensor(beta, dtype=torch.float32)
        mixed = torch.stack(
            [
                share[i] * images[i] + (1 - share[i]) * images[partners[i]]
                for i in range(size)
            ]
        )
        with torch.no_grad():
            known = log_softmax(server(mixed), dim=1)
        own = log_softmax(network(mixed), dim=1)
        guess = known.argmax(dim=1).tolist()
        total = torch.zeros(())
        for i in range(size):
            weight = share[i] * gamma[guess[i]]
            weight = weight + (1 - share[i]) * gamma[guess[partners[i]]]
            divergence = (known[i].exp() * (known[i] - own[i])).mean()
            total = total + weight * divergence
        return total / size

    def loss(network: CNN4, inputs: Tensor, labels: Tensor) -> Tensor:
        value = cross_entropy(network(inputs) + n.log(), labels)
        if pool and round_number >= settings["kcfu.start-round"]:
            value = value + compensation(network)
        return value

    return loss


def alignment(
    world: World,
    client: Client,
    weights: Weights,
    settings: Settings,
    cycle: int,
    round_number: int,
) -> Loss:
    """CHASe's loss: cross-entropy, and a choice between two models to resemble.

    On unlabeled images, with o the logits of the network, o_G of the global model and
    o_old of the client's own model after its round before: the two cosine similarities
    over τ are the logits of a two-class problem. The right answer is the global model
    where the prediction for the image wavered in the round before at least as often as
    the mean, else the own past. (The published code looks at counts that it has just
    set to zero, and takes the global model always: "faithful".)

    There is no alignment in a client's first round of a cycle.
    """
    last, pool = client.last, client.pool
    if not pool or last is None or last.cycle != cycle or last.round >= round_number:
        return supervised
    server = with_weights(world, weights).eval()
    previous = with_weights(world, last.weights).eval()
    rng = numpy_generator(
        settings["seed"], "alignment", cycle, round_number, client.index
    )
    batches = endless_batches(len(pool), settings["train.batch-size"], rng)
    changes = [last.changes.get(sample, 0) for sample in pool]

    def answer(row: int) -> int:
        if settings["alignment.quirks"] == "faithful":
            return 0
        return 0 if changes[row] >= mean(changes) else 1

    def loss(network: CNN4, inputs: Tensor, labels: Tensor) -> Tensor:
        rows = next(batches)
        unlabeled = client.inputs[[pool[row] for row in rows]]
        logits = network(unlabeled)
        with torch.no_grad():
            known, past = server(unlabeled), previous(unlabeled)
        similarity = torch.stack(
            [cosine_similarity(logits, known), cosine_similarity(logits, past)], dim=1
        )
        answers = torch.tensor([answer(row) for row in rows])
        aligned = cross_entropy(similarity / settings["alignment.temperature"], answers)
        own = supervised(network, inputs, labels)
        return own + settings["alignment.weight"] * aligned

    return loss


# -------------------- Federated optimization


@dataclass
class Update:
    """What a client sends back after a round."""

    num_labels: int
    weights: Weights
    loss: float
    variate_change: Weights


def learning_rate(settings: Settings, round_number: int) -> float:
    """Return the round's: a tenth once the 0-based round exceeds ⌊0.75 · rounds⌋."""
    turn = math.floor(settings["train.lr-decay-at"] * settings["campaign.num-rounds"])
    late = round_number - 1 > turn
    return settings["train.lr"] * (settings["train.lr-decay"] if late else 1)


def sampled(
    settings: Settings, purpose: str, count: int, cycle: int, round_number: int
) -> list[int]:
    """Return the clients that take part in a round, ascending."""
    fraction = settings[f"federation.fraction-{purpose}"]
    rng = numpy_generator(settings["seed"], f"{purpose}-clients", cycle, round_number)
    taken = max(1, round(fraction * count))
    return sorted(rng.permutation(count).tolist()[:taken])


def train_client(
    world: World,
    client: Client,
    weights: Weights,
    variate: Weights,
    settings: Settings,
    cycle: int,
    round_number: int,
) -> Update:
    """Train the global model on one client's labels for some epochs."""
    seed, epochs = settings["seed"], settings["train.epochs"]
    lr = learning_rate(settings, round_number)
    network = with_weights(world, weights)
    inputs, labels = client.inputs[client.labeled], torch.tensor(client.known)
    objectives = {"kcfu": kcfu, "alignment": alignment}
    loss = supervised
    if make := objectives.get(settings["train.objective"]):
        loss = make(world, client, weights, settings, cycle, round_number)
    penalty = penalty_of(client, weights, variate, settings)
    optimizer = SGD(network, settings, lambda _step: lr)
    generator = torch_generator(seed, "train", cycle, round_number, client.index)
    watched = shown(client, settings, cycle + 1)
    changes, before = dict.fromkeys(watched, 0), None
    for _ in range(epochs):
        value = train_epoch(
            network, inputs, labels, settings, optimizer, generator, loss, penalty
        )
        if settings["query.strategy"] == "chase":  # epistemic variation
            now = predictions(network, client.inputs[watched])
            for i, sample in enumerate(watched):
                changes[sample] += before is not None and now[i] != before[i]
            before = now
    trained = weights_of(network)
    client.last = LastRound(cycle, round_number, trained, changes)
    moved = {}
    if settings["federation.strategy"] == "scaffold":
        new = next_variate(client, weights, network, variate, optimizer, settings)
        moved = {name: new[name] - client.variate[name] for name in new}
        client.variate = new
    return Update(len(labels), trained, value, moved)


def penalty_of(
    client: Client, weights: Weights, variate: Weights, settings: Settings
) -> Callable[[CNN4], Tensor | float]:
    """Return what a federated optimizer adds to the loss of a client.

    FedProx: (μ/2) |w - w_G|², the pull back to the global weights.
    SCAFFOLD: ⟨c - c_k, w⟩, whose gradient is the correction c - c_k of every step.
    """
    mu = settings["federation.proximal-mu"]

    def proximal(network: CNN4) -> Tensor:
        squares = [
            (w - weights[name]).square().sum() for name, w in network.named_parameters()
        ]
        return mu / 2 * torch.stack(squares).sum()

    def corrected(network: CNN4) -> Tensor:
        terms = [
            ((variate[name] - client.variate[name]) * w).sum()
            for name, w in network.named_parameters()
        ]
        return torch.stack(terms).sum()

    penalties = {"fedprox": proximal, "scaffold": corrected}
    return penalties.get(settings["federation.strategy"], no_penalty)


def next_variate(
    client: Client,
    weights: Weights,
    network: CNN4,
    variate: Weights,
    optimizer: SGD,
    settings: Settings,
) -> Weights:
    """Return c_k⁺ = c_k - c + (x - y) / (η s): the mean gradient of this round.

    SCAFFOLD's second option, where s is the number of steps K. With momentum m a
    gradient moves the weights again and again; the gradient of step t counts
    1 + m + m² + … up to the last step, and s is the sum of that over all steps.
    """
    m, steps = settings["train.momentum"], optimizer.steps
    s = sum(m**repeat for step in range(steps) for repeat in range(steps - step))
    lr = optimizer.lr(0)
    return {
        name: client.variate[name]
        - variate[name]
        + (weights[name] - y.detach()) / (lr * s)
        for name, y in network.named_parameters()
    }


def aggregate(
    world: World,
    weights: Weights,
    variate: Weights,
    updates: list[Update],
    settings: Settings,
) -> tuple[Weights, Weights]:
    """Return the new global weights and, for SCAFFOLD, the new c.

    FedAvg: the mean of the models, each as heavy as the client's labels; BatchNorm's
    running means and variances are averaged as well. SCAFFOLD goes η_g times the way
    to that mean with what is trained, and c stays the mean of all clients' c_k.
    """
    total = sum(update.num_labels for update in updates)
    average = {
        name: sum(u.weights[name] * (u.num_labels / total) for u in updates)
        for name in weights
    }
    if settings["federation.strategy"] == "scaffold":
        step = settings["federation.server-learning-rate"]
        for name in variate:
            average[name] = weights[name] + step * (average[name] - weights[name])
            moved = sum(update.variate_change[name] for update in updates)
            variate = variate | {name: variate[name] + moved / len(world.clients)}
    return average, variate
