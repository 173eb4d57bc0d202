"""Small worlds for strategies: networks, their inputs and their true outputs."""

from typing import get_args

import torch
from torch import Tensor, nn

from fairfal_flwr.query import Outputs, QueryContext
from fairfal_flwr.query.context import Model

MODELS: tuple[Model, ...] = get_args(Model)
INPUT_DIM, FEATURE_DIM = 6, 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(actual: Tensor, expected: object, tolerance: float = 1e-5) -> bool:
    return actual.double().allclose(
        torch.as_tensor(expected, dtype=torch.float64), atol=tolerance, rtol=tolerance
    )


class Perceptron(nn.Module):
    """A classifier with all that has modes: batch normalization and dropout."""

    def __init__(self, num_classes: int, seed: int, *, sharpness: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = nn.Sequential(
                nn.Linear(INPUT_DIM, FEATURE_DIM),
                nn.BatchNorm1d(FEATURE_DIM),
                nn.ReLU(),
                nn.Dropout(0.3),
            )
            self.head = nn.Linear(FEATURE_DIM, num_classes)
            with torch.no_grad():
                self.head.weight *= 3 * sharpness
                self.backbone[1].running_mean.normal_()  # type: ignore[operator]
                self.backbone[1].running_var.uniform_(0.5, 2)  # type: ignore[operator]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.features_and_logits(inputs)[1]

    def features_and_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(inputs)
        return features, self.head(features)


class World:
    """Five networks, a pool and labels, and the context that a strategy gets.

    Parameters
    ----------
    num_pool, num_classes : int
        Sizes.
    labels : list of int
        Classes of the labeled samples.
    copies : int
        Every input of the pool appears so often.
    sharpness : float
        Scales the last layer: 0 makes every prediction uniform, 1e4 certain.
    dead : bool
        Whether every feature is 0.
    """

    def __init__(
        self,
        *,
        num_pool: int = 40,
        num_classes: int = 4,
        labels: list[int] | None = None,
        copies: int = 1,
        sharpness: float = 1.0,
        dead: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        if labels is None:
            labels = [i % num_classes for i in range(12)]
        distinct = -(-num_pool // copies)
        pool = torch.randn(distinct, INPUT_DIM, generator=generator)
        self.inputs = {
            "pool": pool.repeat(copies, 1)[:num_pool].to(device),
            "labeled": torch.randn(len(labels), INPUT_DIM, generator=generator).to(
                device
            ),
        }
        self.labels = torch.tensor(labels, dtype=torch.int64, device=device)
        self.num_classes = num_classes
        self.networks = {
            model: Perceptron(num_classes, seed + i, sharpness=sharpness).to(device)
            for i, model in enumerate(MODELS)
        }
        if dead:
            for network in self.networks.values():
                network.backbone[1].bias.data.fill_(-1e6)
        self.outputs = {
            (model, split): self._predict(model, split)
            for model in MODELS
            for split in ("pool", "labeled")
        }
        changes = torch.randint(4, (num_pool,), generator=generator)
        self.memory = {"changes": changes.to(device)}

    @torch.inference_mode()
    def _predict(self, model, split) -> Outputs:
        network = self.networks[model].eval()
        features, logits = network.features_and_logits(self.inputs[split])
        network.train()  # a strategy must not rely on the mode it finds
        network.backbone[1].eval()
        return Outputs(logits.softmax(dim=1), features)

    def context(self, *, seed: int = 0, **changes) -> QueryContext:
        """Return a new context; keywords replace what it is given."""
        given = {
            "labels": self.labels,
            "num_classes": self.num_classes,
            "global_imbalance": 0.4,
            "generator": torch.Generator().manual_seed(seed),
            "load_network": lambda model: self.networks[model],
            "load_inputs": lambda split: self.inputs[split],
            "memory": self.memory,
        }
        return QueryContext.from_outputs(self.outputs, **{**given, **changes})
