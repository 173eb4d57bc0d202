"""Local SGD: one loop for the federated rounds and for the local model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fairfal_flwr.client.sgd import SGD
from fairfal_flwr.config import DistillConfig, LocalConfig, TrainConfig
from fairfal_flwr.models import Classifier

__all__ = [
    "LabeledImages",
    "Objective",
    "Trained",
    "mirror",
    "steps_per_epoch",
    "supervised_loss",
    "train_distilled_model",
    "train_local_model",
    "train_round",
]


@dataclass(frozen=True)
class LabeledImages:
    """The training set of one client, ready for its network.

    Parameters
    ----------
    inputs : Tensor, shape (M, channels, height, width), float32
        Normalized images.
    labels : Tensor, shape (M,), int64
        Their classes.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor, *, mirrored: Tensor | None = None) -> Self:
        """Return some rows, each flipped left to right where `mirrored` says so."""
        inputs = self.inputs[rows]
        if mirrored is not None:
            inputs = mirror(inputs, mirrored)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return type(self)(inputs, self.labels[rows])


Objective = Callable[[Classifier, LabeledImages], Tensor]


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Flip images (N, channels, height, width) left to right where (N,) says so."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Trained:
    """What a round of training came to.

    Parameters
    ----------
    loss : float
        Mean objective over the last epoch.
    steps : int
        Steps of the optimizer.
    """

    loss: float
    steps: int


class EpochLoss(NamedTuple):
    """The mean objective of an epoch.

    Parameters
    ----------
    over_images : float
        Each image counts the same.
    over_batches : float
        Each batch counts the same, also a short one.
    """

    over_images: float
    over_batches: float


class Listener(Protocol):
    """What `train_round` tells as it goes; see `client.plug.Plug`."""

    def correct(self) -> None:
        """Add to the gradients, between backward pass and step."""

    def end_epoch(self) -> None:
        """Look at the model after an epoch."""


def supervised_loss(model: Classifier, batch: LabeledImages) -> Tensor:
    """Return the mean cross-entropy of a batch, the default objective."""
    return cross_entropy(model(batch.inputs), batch.labels)


def train_round(
    model: Classifier,
    data: LabeledImages,
    settings: TrainConfig,
    *,
    lr: float,
    generator: torch.Generator,
    objective: Objective = supervised_loss,
    listeners: Sequence[Listener] = (),
) -> Trained:
    """Train a client's copy of the global model for one federated round.

    Parameters
    ----------
    model : Classifier
        Changed in place.
    data : LabeledImages
        The client's labels; without any the model stays as it is.
    settings : TrainConfig
        Epochs, batch size, SGD settings.
    lr : float
        Learning rate of the round.
    generator : torch.Generator
        Of the CPU; shuffles and mirrors.
    objective : callable, default cross-entropy
        The loss of a mini-batch.
    listeners : sequence of Listener
        Told before every step and after every epoch.
    """
    if not len(data):
        return Trained(loss=0.0, steps=0)
    optimizer = _optimizer(model, settings, lr)
    loss = float("nan")
    for _ in range(settings.epochs):
        loss = _epoch(
            model,
            data,
            optimizer,
            settings,
            generator,
            objective=objective,
            listeners=listeners,
        ).over_images
        for listener in listeners:
            listener.end_epoch()
    return Trained(loss, optimizer.steps)


def train_local_model(
    model: Classifier,
    data: LabeledImages,
    settings: TrainConfig,
    local: LocalConfig,
    *,
    generator: torch.Generator,
) -> int:
    """Train the local-only model until it knows its labels (method §3).

    Parameters
    ----------
    model : Classifier
        Freshly initialized, or the one to fine-tune; changed in place.
    data : LabeledImages
        The client's labels, at least one.
    settings : TrainConfig
        Batch size and SGD settings.
    local : LocalConfig
        When to lower the learning rate and when to stop.
    generator : torch.Generator
        Of the CPU; shuffles and mirrors.

    Returns
    -------
    int
        Epochs trained.
    """
    steps = 1
    if local.lr_milestone_unit == "epoch":
        steps = steps_per_epoch(len(data), settings.batch_size, model.smallest_batch)
    optimizer = _optimizer(
        model, settings, settings.lr, decay_after=local.lr_milestone * steps
    )
    for epoch in range(1, local.max_epochs + 1):
        _epoch(model, data, optimizer, settings, generator)
        mirrored = None
        if local.quirks == "faithful":
            mirrored = _mirrored(data, settings, generator)
        if _accuracy(model, data, mirrored) >= local.stop_accuracy:
            return epoch
    return local.max_epochs


def train_distilled_model(
    model: Classifier,
    data: LabeledImages,
    settings: TrainConfig,
    distill: DistillConfig,
    *,
    objective: Objective,
    generator: torch.Generator,
) -> int:
    """Train on labels and a teacher's view of them until the loss stops falling (IFAL).

    Parameters
    ----------
    model : Classifier
        Freshly initialized; changed in place.
    data : LabeledImages
        The client's labels, at least one.
    settings : TrainConfig
        Batch size and SGD settings.
    distill : DistillConfig
        The learning rate and when to stop.
    objective : callable
        The loss of a mini-batch. Its mean over an epoch is what must fall: that over
        batches if `faithful`, else that over images.
    generator : torch.Generator
        Of the CPU; shuffles and mirrors.

    Returns
    -------
    int
        Epochs trained.
    """
    optimizer = _optimizer(model, settings, settings.lr * distill.lr_factor)
    lowest, best_epoch, best = float("inf"), 0, None
    for epoch in range(1, distill.max_epochs + 1):
        mean = _epoch(model, data, optimizer, settings, generator, objective=objective)
        faithful = distill.quirks == "faithful"
        loss = mean.over_batches if faithful else mean.over_images
        if loss < lowest:
            lowest, best_epoch = loss, epoch
            if not faithful:
                best = {name: w.clone() for name, w in model.state_dict().items()}
        if epoch - best_epoch >= distill.patience:
            break
    if best is not None:
        model.load_state_dict(best)
    return epoch


def _optimizer(
    model: Classifier,
    settings: TrainConfig,
    lr: float,
    *,
    decay_after: int | None = None,
) -> SGD:
    return SGD(
        model.parameters(),
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        decay_after=decay_after,
        decay=settings.lr_decay,
    )


def _epoch(
    model: Classifier,
    data: LabeledImages,
    optimizer: SGD,
    settings: TrainConfig,
    generator: torch.Generator,
    *,
    objective: Objective = supervised_loss,
    listeners: Sequence[Listener] = (),
) -> EpochLoss:
    """Go once over the data in random order."""
    model.train()
    device = data.labels.device
    order = torch.randperm(len(data), generator=generator).to(device)
    mirrored = _mirrored(data, settings, generator)
    batches = _batches(order, settings.batch_size, model.smallest_batch)
    total, batch_total = (torch.zeros((), device=device) for _ in range(2))
    for rows in batches:
        batch = data.take(rows, mirrored=None if mirrored is None else mirrored[rows])
        loss = objective(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for listener in listeners:
            listener.correct()
        optimizer.step()
        total += loss.detach() * len(batch)
        batch_total += loss.detach()
    count = sum(map(len, batches))
    return EpochLoss(float(total) / count, float(batch_total) / len(batches))


def _mirrored(
    data: LabeledImages, settings: TrainConfig, generator: torch.Generator
) -> Tensor | None:
    """Draw which images an epoch flips, if any."""
    if not settings.horizontal_flip:
        return None
    return (torch.rand(len(data), generator=generator) < 0.5).to(data.labels.device)


def steps_per_epoch(num_images: int, batch_size: int, smallest_batch: int = 1) -> int:
    """Return how many batches an epoch has; what is left over and too small is none.

    Examples
    --------
    >>> steps_per_epoch(9, batch_size=4), steps_per_epoch(9, 4, smallest_batch=2)
    (3, 2)
    """
    whole, rest = divmod(num_images, max(batch_size, smallest_batch))
    return max(1, whole + (rest >= smallest_batch))


def _batches(order: Tensor, size: int, smallest: int) -> list[Tensor]:
    """Cut rows into batches; what is too small joins the one before, or is repeated.

    Examples
    --------
    >>> [len(rows) for rows in _batches(torch.arange(9), size=4, smallest=2)]
    [4, 5]
    >>> _batches(torch.arange(1), size=4, smallest=2)
    [tensor([0, 0])]
    """
    if len(order) < smallest:
        return [order.repeat(smallest)[:smallest]]
    size = max(size, smallest)
    whole = steps_per_epoch(len(order), size, smallest) - 1
    return list(torch.split(order, [size] * whole + [len(order) - whole * size]))


@torch.inference_mode()
def _accuracy(
    model: Classifier, data: LabeledImages, mirrored: Tensor | None = None
) -> float:
    model.eval()
    inputs = data.inputs if mirrored is None else mirror(data.inputs, mirrored)
    predictions = torch.cat([model(b).argmax(dim=1) for b in torch.split(inputs, 512)])
    return float((predictions == data.labels).float().mean())
