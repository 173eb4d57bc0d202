"""What there is: settings, clients with their images, and the network."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_shard, load_test_set
from fairfal_flwr.randomness import torch_generator

Settings = dict[str, Any]
Weights = dict[str, Tensor]


# -------------------- What a run is told
#
# The keys are those of the run config (docs/configuration.md). The values are the
# papers' where a paper names one, and this project's small defaults otherwise.

DEFAULTS: Settings = {
    "seed": 0,
    "num-clients": 5,
    "campaign.num-cycles": 6,
    "campaign.num-rounds": 10,
    "campaign.budget": 0.05,
    "campaign.reset": "random",
    "campaign.evaluate-every": 5,
    "federation.strategy": "fedavg",
    "federation.fraction-train": 1.0,
    "federation.fraction-evaluate": 0.0,
    "federation.proximal-mu": 0.01,
    "federation.server-learning-rate": 1.0,
    "train.objective": "supervised",
    "train.epochs": 5,
    "train.batch-size": 64,
    "train.lr": 0.01,
    "train.momentum": 0.9,
    "train.weight-decay": 1e-5,
    "train.lr-decay": 0.1,
    "train.lr-decay-at": 0.75,
    "train.horizontal-flip": False,
    "local.max-epochs": 50,
    "local.stop-accuracy": 0.99,
    "local.lr-milestone": 37,
    "local.quirks": "faithful",
    "kcfu.beta": 2.0,
    "kcfu.start-round": 2,
    "kcfu.quirks": "faithful",
    "alignment.weight": 1.0,
    "alignment.temperature": 0.5,
    "alignment.quirks": "faithful",
    "distill.temperature": 4.0,
    "distill.weight": 0.9,
    "distill.lr-factor": 0.1,
    "distill.max-epochs": 500,
    "distill.patience": 5,
    "distill.quirks": "faithful",
    "query.strategy": "fairfal",
    "query.model": "auto",
    "query.max-pool": 0,
    "adaptive.threshold": 0.75,
    "fairfal.candidate-factor": 4.0,
    "fairfal.gradient-threshold": 0.5,
    "adaptive.balance-seed": 42,
    "ksas.log-prior": 1.0,
    "ifal.num-neighbors": 250,
    "ifal.num-starts": 10,
    "ifal.quirks": "faithful",
    "chase.score": "variation",
    "chase.subset": 500,
    "chase.awaken-ratio": 0.4,
    "chase.awaken-factor": 3.0,
    "alfa-mix.alpha-cap-step": 0.2,
    "alfa-mix.num-starts": 10,
    "alfa-mix.quirks": "faithful",
    "diverse-batch.prefilter-factor": 10,
    "diverse-batch.num-starts": 10,
}
ELSEWHERE = ("data.", "output-dir", "state-dir", "device")  # not this file's business


# -------------------- Images and labels


@dataclass
class LastRound:
    """What a client remembers of the last round that it trained in."""

    cycle: int
    round: int
    weights: Weights  # its own, before they were averaged
    changes: dict[int, int]  # sample -> how often its prediction changed


@dataclass
class Client:
    """One site. Its samples are numbered 0, 1, 2, … in the order of `ids`."""

    index: int
    ids: list[int]
    inputs: Tensor  # normalized images
    truth: list[int]  # only the annotator looks at it: see `annotate`
    test_inputs: Tensor
    test_labels: Tensor
    budget: int
    labels: dict[int, int] = field(default_factory=dict)  # sample -> answered class
    selections: list[list[int]] = field(default_factory=list)  # ids, cycle by cycle
    dormant: set[int] = field(default_factory=set)  # CHASe's sleepers
    variate: Weights = field(default_factory=dict)  # SCAFFOLD's c_k
    last: LastRound | None = None

    @property
    def labeled(self) -> list[int]:
        """The samples with a label."""
        return sorted(self.labels)

    @property
    def known(self) -> list[int]:
        """Their classes."""
        return [self.labels[sample] for sample in self.labeled]

    @property
    def pool(self) -> list[int]:
        """The samples never asked for."""
        return [s for s in range(len(self.ids)) if s not in self.labels]

    def annotate(self, samples: list[int]) -> None:
        """Ask for the classes of some samples, and be told the truth."""
        self.selections.append([self.ids[sample] for sample in samples])
        self.labels |= {sample: self.truth[sample] for sample in samples}


@dataclass
class World:
    """All there is: the clients, and the server's test set."""

    clients: list[Client]
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int


def load_world(values: dict[str, Any], budget: float) -> World:
    """Load everybody's images: the only function that touches the app's data."""
    config = RunConfig.from_flat(values)

    def normalized(images: Tensor, source: Any) -> Tensor:
        """(x / 255 - mean) / std, channel by channel."""
        channels = [
            (images[:, c].float() / 255 - source.mean[c]) / source.std[c]
            for c in range(images.shape[1])
        ]
        stacked = torch.stack(channels, dim=1)
        return stacked.contiguous(memory_format=torch.channels_last)

    clients = []
    for index in range(config.num_clients):
        shard, labels = load_shard(config.image_spec(), config.partition_spec(), index)
        client = Client(
            index=index,
            ids=shard.sample_ids.tolist(),
            inputs=normalized(shard.images, shard),
            truth=labels.tolist(),
            test_inputs=normalized(shard.test_images, shard),
            test_labels=shard.test_labels,
            budget=max(1, int(budget * len(shard.images) + 1e-9)),
        )
        clients.append(client)
    test = load_test_set(config.image_spec())
    inputs = normalized(test.images, test)
    return World(clients, inputs, test.labels, len(test.class_names))


def shown(client: Client, settings: Settings, cycle: int) -> list[int]:
    """Return the samples that a cycle's query looks at: `query.max-pool`, at random.

    What sleeps (CHASe) is drawn only where nothing else is left.
    """
    pool, most = client.pool, settings["query.max-pool"]
    count = max(most, client.budget)
    if not most or len(pool) <= count:
        return pool
    generator = torch_generator(settings["seed"], "max-pool", cycle, client.index)
    ranks = torch.rand(len(pool), generator=generator, dtype=torch.float64).tolist()
    ranks = [r + (s in client.dormant) for r, s in zip(ranks, pool, strict=True)]
    order = sorted(range(len(pool)), key=lambda i: ranks[i])
    return sorted(pool[i] for i in order[:count])


# -------------------- The network


class CNN4(nn.Module):
    """Four blocks of conv 3x3 (64), BatchNorm, ReLU, max-pool 2; then linear.

    The features are what goes into the linear layer.
    """

    def __init__(self, like: Tensor, num_classes: int, seed: int) -> None:
        super().__init__()
        channels, side = like.shape[1:3]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # The linear layer draws its numbers before the convolutions do.
            head = nn.Linear(64 * (side // 16) ** 2, num_classes)
            blocks = [self.block(width) for width in (channels, 64, 64, 64)]
        nn.init.zeros_(head.bias)
        self.backbone = nn.Sequential(*blocks, nn.Flatten())
        self.head = head
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def block(channels: int) -> nn.Sequential:
        convolution = nn.Conv2d(channels, 64, kernel_size=3, padding=1)
        return nn.Sequential(
            convolution, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))


def fresh(world: World, seed: int) -> CNN4:
    """Return a randomly initialized network."""
    return CNN4(world.test_inputs, world.num_classes, seed)


def with_weights(world: World, weights: Weights) -> CNN4:
    """Return a network with certain weights."""
    network = fresh(world, seed=0)
    network.load_state_dict(weights, strict=False)
    return network


def weights_of(network: CNN4) -> Weights:
    """Copy the weights and BatchNorm's running means and variances.

    BatchNorm also counts batches, which nothing reads; integers do not travel.
    """
    state = network.state_dict()
    return {n: w.clone() for n, w in state.items() if w.is_floating_point()}


@torch.no_grad()
def outputs(network: CNN4, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax (N, C) and features (N, D), in double precision."""
    network.eval()
    features = network.backbone(inputs)
    return softmax(network.head(features), dim=1).double(), features.double()


def predictions(network: CNN4, inputs: Tensor) -> list[int]:
    """Return the likeliest class of each image."""
    probs, _ = outputs(network, inputs)
    return probs.argmax(dim=1).tolist()
