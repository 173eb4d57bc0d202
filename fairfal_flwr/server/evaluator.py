"""The global model on the server's test set, or what the clients say of theirs."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import (
    EvaluationSet,
    class_counts,
    empty_test_set,
    load_test_set,
)
from fairfal_flwr.device import resolve_device
from fairfal_flwr.messages import EvaluateReply, Weights, load_weights
from fairfal_flwr.models import Architecture, measure, on_device, predict

__all__ = ["ClientsEvaluation", "Evaluation", "Evaluator", "rarest_third"]

log = logging.getLogger("fairfal.server")


@dataclass(frozen=True)
class Evaluation:
    """Measures of one model on the test set.

    Parameters
    ----------
    accuracy : float
        Fraction of the images that are classified right.
    loss : float
        Mean cross-entropy, in nats.
    recalls : tuple of float, length C
        Accuracy on the images of each class; nan for a class without test images.
    rare_recall : float
        Mean recall of the rarest third of the classes.
    """

    accuracy: float
    loss: float
    recalls: tuple[float, ...]
    rare_recall: float


@dataclass(frozen=True)
class ClientsEvaluation:
    """Measures of one model over the test images of all clients together.

    Parameters
    ----------
    accuracy : float
        Fraction of the images that are classified right.
    recalls : tuple of float, length C
        Accuracy on the images of each class; nan for a class without test images.
    """

    accuracy: float
    recalls: tuple[float, ...]

    @classmethod
    def pooled(cls, replies: Iterable[EvaluateReply]) -> Self | None:
        """Return what the clients found taken together; None without any image.

        Examples
        --------
        >>> ClientsEvaluation.pooled([
        ...     EvaluateReply(3, 0.1, 2 / 3, [2, 1], [2, 0]),
        ...     EvaluateReply(1, 0.1, 1.0, [0, 1], [0, 1]),
        ... ])
        ClientsEvaluation(accuracy=0.75, recalls=(1.0, 0.5))
        """
        pairs = [(reply.class_counts, reply.class_hits) for reply in replies]
        counts = [
            sum(of_class) for of_class in zip(*(p[0] for p in pairs), strict=True)
        ]
        hits = [sum(of_class) for of_class in zip(*(p[1] for p in pairs), strict=True)]
        if not sum(counts):
            return None
        recalls = (h / n if n else math.nan for h, n in zip(hits, counts, strict=True))
        return cls(sum(hits) / sum(counts), tuple(recalls))


class Evaluator:
    """Builds and tests the global model.

    Parameters
    ----------
    config : RunConfig
        Names the image set, the model and the device.

    Raises
    ------
    UserError
        If the images, the network or the device cannot be used.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.test_set, self.train_counts = _images(config)
        self.images = self.test_set.images.to(self.device)
        self.labels = self.test_set.labels.to(self.device)
        self.rare_classes = rarest_third(self.train_counts)
        self.architecture = Architecture.for_images(
            config.model.name,
            config.model.weights,
            self.images,
            self.test_set.num_classes,
        )
        self.architecture.build(seed=0)
        channels, height, width = self.images.shape[1:]
        log.info(
            "%s on %dx%dx%d images: %s",
            config.model.name,
            channels,
            height,
            width,
            self.architecture.input_rule,
        )

    def new_weights(self, seed: int) -> Weights:
        """Return a fresh initialization of the global model."""
        return dict(self.architecture.build(seed).state_dict())

    def buffers(self) -> frozenset[str]:
        """Return the floating-point entries of the state dict that nothing trains.

        They are BatchNorm's running means and variances.
        """
        buffers = self.architecture.build(seed=0, weights=False).named_buffers()
        return frozenset(name for name, b in buffers if b.is_floating_point())

    def evaluate(self, weights: Weights) -> Evaluation | None:
        """Test the model on every test image, in one pass; None if there are none."""
        if not len(self.labels):
            return None
        model = self.architecture.build(seed=0, weights=False)
        load_weights(model, weights)
        on_device(model, self.device)
        probs, _ = predict(model, self.images, self.test_set.mean, self.test_set.std)
        return self._measure(probs)

    def from_clients(self, found: ClientsEvaluation | None) -> Evaluation:
        """Return what the clients found, for a server without test images.

        None: no client has test images either, and nothing is known.
        """
        if found is None:
            log.warning("no client has test images: the accuracy is unknown")
            unknown = (math.nan,) * self.test_set.num_classes
            found = ClientsEvaluation(math.nan, unknown)
        rare = torch.tensor(found.recalls)[self.rare_classes].nanmean()
        return Evaluation(found.accuracy, math.nan, found.recalls, float(rare))

    def _measure(self, probs: Tensor) -> Evaluation:
        found = measure(probs, self.labels)
        recalls = found.recalls.cpu()
        return Evaluation(
            accuracy=found.accuracy,
            loss=found.loss,
            recalls=tuple(recalls.tolist()),
            rare_recall=float(recalls[self.rare_classes].nanmean()),
        )


def _images(config: RunConfig) -> tuple[EvaluationSet, Tensor]:
    """Return what to test on and all clients' training images of each class.

    A server without images knows neither.
    """
    spec = config.image_spec()
    if not config.data.server_test:
        test_set = empty_test_set(spec)
        return test_set, torch.zeros(test_set.num_classes, dtype=torch.int64)
    test_set = load_test_set(spec)
    return test_set, torch.from_numpy(class_counts(spec, config.partition_spec()))


def rarest_third(counts: Tensor) -> Tensor:
    """Return the C // 3 classes (at least one) with the fewest training images.

    Parameters
    ----------
    counts : Tensor, shape (C,), int64
        Training images of each class; of equal ones the higher class is the rarer, as
        in a long tail.

    Examples
    --------
    >>> rarest_third(torch.tensor([9, 2, 5, 5, 7, 8]))
    tensor([1, 3])
    """
    if not counts.any():
        return torch.empty(0, dtype=torch.int64)
    order = counts.flip(0).argsort(stable=True)
    return (len(counts) - 1 - order)[: max(1, len(counts) // 3)]
