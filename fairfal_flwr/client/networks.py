"""The networks of one client, on its device, over its images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fairfal_flwr.client.training import LabeledImages
from fairfal_flwr.data import Shard
from fairfal_flwr.messages import Weights, load_weights
from fairfal_flwr.models import Classifier, as_input, build_model, predict
from fairfal_flwr.query import Outputs

__all__ = ["Holdings", "Networks"]


@dataclass(frozen=True)
class Holdings:
    """What of a shard is labeled and what may still be asked for.

    Parameters
    ----------
    pool : Tensor, shape (N,), int64
        Positions in the shard never asked for, ascending.
    labeled : Tensor, shape (M,), int64
        Positions in the shard that are labeled, ascending.
    labels : Tensor, shape (M,), int64
        Their classes.
    """

    pool: Tensor
    labeled: Tensor
    labels: Tensor


class Networks:
    """Builds networks for a shard and runs them over its images.

    Parameters
    ----------
    name : str
        The architecture, `model.name`.
    shard : Shard
        The images; the networks live on their device.
    """

    def __init__(self, name: str, shard: Shard) -> None:
        self.name = name
        self.shard = shard

    def fresh(self, seed: int) -> Classifier:
        """Return a new network."""
        channels, height, width = self.shard.images.shape[1:]
        model = build_model(
            self.name,
            in_channels=channels,
            image_size=(height, width),
            num_classes=self.shard.num_classes,
            seed=seed,
        )
        model.to(self.shard.images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def with_weights(self, weights: Weights) -> Classifier:
        """Return a network with the weights that the server sent."""
        model = self.fresh(seed=0)
        load_weights(model, weights)
        return model

    def outputs(self, model: Classifier, images: Tensor) -> Outputs:
        """Run a network over images, in one pass."""
        return Outputs(*predict(model, images, self.shard.mean, self.shard.std))

    def labeled_images(self, holdings: Holdings) -> LabeledImages:
        """Return the training set, normalized."""
        images = self.shard.images[holdings.labeled]
        inputs = as_input(images, self.shard.mean, self.shard.std)
        return LabeledImages(inputs, holdings.labels)
