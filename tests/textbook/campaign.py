"""The campaign: label, train, evaluate, cycle by cycle."""

import math
from collections import Counter
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from fairfal_flwr.randomness import derive_seed
from textbook.models import Query
from textbook.strategies import STRATEGIES, imbalance
from textbook.training import aggregate, learning_rate, sampled, train_client
from textbook.world import (
    DEFAULTS,
    ELSEWHERE,
    Settings,
    Weights,
    World,
    fresh,
    load_world,
    predictions,
    weights_of,
    with_weights,
)


@dataclass
class Round:
    """One round of federated training, as it is reported."""

    cycle: int
    round: int
    lr: float
    clients: list[int]
    loss: float
    accuracy: float | None = None
    rare_recall: float | None = None
    client_accuracy: float | None = None
    client_recalls: list[float] | None = None


@dataclass
class Report:
    """All that a campaign leaves behind."""

    selections: list[list[list[int]]]  # client by client, cycle by cycle, in order
    weights: Weights
    gamma_bar: float | None
    rounds: list[Round]


def recalls_of(guesses: list[int], labels: list[int], num_classes: int) -> list[float]:
    """Return the share of each class that is recognized; nan without any image."""
    hits = Counter(y for guess, y in zip(guesses, labels, strict=True) if guess == y)
    sizes = Counter(labels)
    return [hits[c] / sizes[c] if sizes[c] else math.nan for c in range(num_classes)]


def rarest_third(world: World) -> list[int]:
    """Return the third of the classes with the fewest training images.

    Of equally rare ones the higher: along a long tail it is the rarer.
    """
    counts = Counter(y for client in world.clients for y in client.truth)
    order = sorted(range(world.num_classes), key=lambda c: (counts[c], -c))
    return order[: max(1, world.num_classes // 3)]


def evaluate(world: World, weights: Weights, row: Round) -> None:
    """Test the global model on the server's images."""
    network = with_weights(world, weights)
    guesses = predictions(network, world.test_inputs)
    labels = world.test_labels.tolist()
    recalls = recalls_of(guesses, labels, world.num_classes)
    row.accuracy = mean(g == y for g, y in zip(guesses, labels, strict=True))
    row.rare_recall = mean(recalls[c] for c in rarest_third(world))


def evaluate_on_clients(
    world: World, weights: Weights, settings: Settings, row: Round
) -> None:
    """Test the global model on the images of some clients, taken together."""
    if not settings["federation.fraction-evaluate"]:
        return
    network = with_weights(world, weights)
    guesses: list[int] = []
    labels: list[int] = []
    count = len(world.clients)
    for index in sampled(settings, "evaluate", count, row.cycle, row.round):
        client = world.clients[index]
        guesses += predictions(network, client.test_inputs)
        labels += client.test_labels.tolist()
    row.client_accuracy = mean(g == y for g, y in zip(guesses, labels, strict=True))
    row.client_recalls = recalls_of(guesses, labels, world.num_classes)


def run(values: dict[str, Any]) -> Report:
    """Run a campaign: cycle by cycle label, train, evaluate.

    The first cycle labels at random. γ̄, the clients' mean imbalance, is measured once,
    before the first query that follows, and kept. By default every cycle trains a new
    network, with whatever is labeled by then.
    """
    settings = DEFAULTS | {
        key: value for key, value in values.items() if not key.startswith(ELSEWHERE)
    }
    assert settings.keys() == DEFAULTS.keys(), "a key that this file does not know"
    world = load_world(values, settings["campaign.budget"])
    weights: Weights = {}
    variate: Weights = {}  # SCAFFOLD's c
    gamma_bar = None
    rounds = []
    for cycle in range(1, settings["campaign.num-cycles"] + 1):
        strategy = settings["query.strategy"] if cycle > 1 else "random"
        adaptive = strategy == "fairfal" or settings["query.model"] == "adaptive"
        if cycle > 1 and adaptive and gamma_bar is None:
            gamma_bar = mean(
                imbalance(world, client, weights, settings) for client in world.clients
            )
        for client in world.clients:
            query = Query(world, client, settings, cycle, weights, gamma_bar)
            rows = list(range(len(query.pool)))
            if len(rows) > client.budget:
                rows = STRATEGIES[strategy](query)
            client.annotate([query.pool[row] for row in rows])
        if cycle == 1 or settings["campaign.reset"] == "random":
            seed = derive_seed(settings["seed"], "global-model", cycle)
            network = fresh(world, seed)
            weights = weights_of(network)
            zeros = {n: torch.zeros_like(w) for n, w in network.named_parameters()}
            variate = zeros
            for client in world.clients:
                client.variate = zeros
        for number in range(1, settings["campaign.num-rounds"] + 1):
            row, weights, variate = run_round(
                world, weights, variate, settings, cycle, number
            )
            rounds.append(row)
    selections = [client.selections for client in world.clients]
    return Report(selections, weights, gamma_bar, rounds)


def run_round(
    world: World,
    weights: Weights,
    variate: Weights,
    settings: Settings,
    cycle: int,
    number: int,
) -> tuple[Round, Weights, Weights]:
    """Train on some clients, average, and evaluate every so many rounds."""
    taking_part = sampled(settings, "train", len(world.clients), cycle, number)
    updates = [
        train_client(
            world, world.clients[index], weights, variate, settings, cycle, number
        )
        for index in taking_part
    ]
    weights, variate = aggregate(world, weights, variate, updates, settings)
    total = sum(update.num_labels for update in updates)
    loss = sum(update.num_labels * update.loss for update in updates) / total
    row = Round(cycle, number, learning_rate(settings, number), taking_part, loss)
    is_last = number == settings["campaign.num-rounds"]
    if is_last or number % settings["campaign.evaluate-every"] == 0:
        evaluate(world, weights, row)
        evaluate_on_clients(world, weights, settings, row)
    return row, weights, variate
