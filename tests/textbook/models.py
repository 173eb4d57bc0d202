"""The models that a query looks at: global, local, the client's last, distilled."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from fairfal_flwr.randomness import derive_seed, torch_generator
from textbook.training import SGD, train_epoch
from textbook.world import (
    CNN4,
    Client,
    Settings,
    Weights,
    World,
    fresh,
    outputs,
    predictions,
    shown,
    weights_of,
    with_weights,
)


def local_model(world: World, client: Client, settings: Settings, cycle: int) -> CNN4:
    """Train from scratch on the client's labels alone, until it knows them.

    All clients start from the same random weights in a cycle. At most 50 epochs, fewer
    where 99 % of the labels are right; the learning rate falls after 37 *steps*, as in
    the published code, which also looks at images mirrored as in training.
    """
    seed, lr = settings["seed"], settings["train.lr"]

    def lr_of(step: int) -> float:
        late = step >= settings["local.lr-milestone"]
        return lr * (settings["train.lr-decay"] if late else 1)

    network = fresh(world, derive_seed(seed, "local-model", cycle))
    optimizer = SGD(network, settings, lr_of)
    generator = torch_generator(seed, "train-local", cycle, client.index)
    inputs, known = client.inputs[client.labeled], client.known
    for _ in range(settings["local.max-epochs"]):
        train_epoch(
            network, inputs, torch.tensor(known), settings, optimizer, generator
        )
        seen = inputs
        if settings["local.quirks"] == "faithful" and settings["train.horizontal-flip"]:
            coins = torch.rand(len(known), generator=generator)
            seen = torch.stack(
                [x.flip(-1) if coin < 0.5 else x for x, coin in zip(inputs, coins)]  # noqa: B905
            )
        guesses = predictions(network, seen)
        right = sum(g == y for g, y in zip(guesses, known, strict=True))
        if right / len(known) >= settings["local.stop-accuracy"]:
            break
    return network


def distilled_model(
    world: World, client: Client, teacher: CNN4, settings: Settings, cycle: int
) -> CNN4:
    """IFAL's third model: learns the labels, and the global model's view of them.

    (1 - w) CE + w T² KL(teacher ‖ student), both softmaxes at temperature T. It trains
    until the loss of an epoch has not been the lowest for `patience` epochs in a row.
    The published code means to keep the weights of the lowest loss, but keeps the last,
    and takes the mean loss of the batches, however short the last one is.
    """
    seed, lr = settings["seed"], settings["train.lr"] * settings["distill.lr-factor"]
    t, w = settings["distill.temperature"], settings["distill.weight"]
    teacher.eval()

    def loss(network: CNN4, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = network(inputs)
        with torch.no_grad():
            known = log_softmax(teacher(inputs) / t, dim=1)
        student = log_softmax(logits / t, dim=1)
        divergence = (known.exp() * (known - student)).sum(dim=1).mean()
        return (1 - w) * cross_entropy(logits, labels) + w * t**2 * divergence

    network = fresh(world, derive_seed(seed, "local-model", cycle))
    optimizer = SGD(network, settings, lambda _step: lr)
    generator = torch_generator(seed, "distill", cycle, client.index)
    inputs, labels = client.inputs[client.labeled], torch.tensor(client.known)
    faithful = settings["distill.quirks"] == "faithful"
    losses, best = [], weights_of(network)
    for _ in range(settings["distill.max-epochs"]):
        value = train_epoch(
            network,
            inputs,
            labels,
            settings,
            optimizer,
            generator,
            loss,
            by_batch=faithful,
        )
        if value < min(losses, default=math.inf):
            best = weights_of(network)
        losses.append(value)
        if len(losses) - 1 - losses.index(min(losses)) >= settings["distill.patience"]:
            break
    return network if faithful else with_weights(world, best)


class Query:
    """One client's question in one cycle: what may be asked, and the models' views."""

    def __init__(
        self,
        world: World,
        client: Client,
        settings: Settings,
        cycle: int,
        weights: Weights,
        gamma_bar: float | None,
    ) -> None:
        self.world, self.client, self.settings = world, client, settings
        self.cycle, self.weights, self.gamma_bar = cycle, weights, gamma_bar
        self.pool = shown(client, settings, cycle)
        self.labels = client.known
        self.budget = client.budget
        self.generator = torch_generator(settings["seed"], "query", cycle, client.index)
        self._models: dict[str, CNN4] = {}
        self._outputs: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def model(self, name: str) -> CNN4:
        """Return the global model, the local one, the client's last or IFAL's third."""
        if name not in self._models:
            self._models[name] = self._make(name)
        return self._models[name]

    def _make(self, name: str) -> CNN4:
        world, client = self.world, self.client
        if name == "local":
            return local_model(world, client, self.settings, self.cycle)
        if name == "distilled":
            teacher = self.model("global")
            return distilled_model(world, client, teacher, self.settings, self.cycle)
        if name == "local-last" and client.last:
            return with_weights(world, client.last.weights)
        return with_weights(world, self.weights)

    def of_pool(self, model: str) -> tuple[Tensor, Tensor]:
        """Return a model's softmax and features of the pool."""
        return self._outputs_of(model, "pool", self.pool)

    def of_labeled(self, model: str) -> tuple[Tensor, Tensor]:
        """Return a model's softmax and features of the labeled samples."""
        return self._outputs_of(model, "labeled", self.client.labeled)

    def _outputs_of(
        self, model: str, name: str, samples: list[int]
    ) -> tuple[Tensor, Tensor]:
        key = model, name
        if key not in self._outputs:
            self._outputs[key] = outputs(self.model(model), self.client.inputs[samples])
        return self._outputs[key]
