"""The networks of one client, on its device, over its images."""

import torch
from torch import Tensor

from fairfal_flwr.client.pool import Holdings
from fairfal_flwr.client.training import LabeledImages
from fairfal_flwr.config import ModelConfig
from fairfal_flwr.data import Shard
from fairfal_flwr.initial import initial_model
from fairfal_flwr.messages import Weights, load_weights
from fairfal_flwr.models import Classifier, as_input, predict
from fairfal_flwr.query import Outputs

__all__ = ["Networks"]


class Networks:
    """Builds networks for a shard and runs them over its images.

    Parameters
    ----------
    config : ModelConfig
        The architecture and what it starts from.
    shard : Shard
        The images; the networks live on their device.
    """

    def __init__(self, config: ModelConfig, shard: Shard) -> None:
        self.config = config
        self.shard = shard

    def fresh(self, seed: int, *, weights: bool = True) -> Classifier:
        """Return a new network, with the weights of `model.weights` unless told not."""
        channels, height, width = self.shard.images.shape[1:]
        model = initial_model(
            self.config,
            in_channels=channels,
            image_size=(height, width),
            num_classes=self.shard.num_classes,
            seed=seed,
            weights=weights,
        )
        model.to(self.shard.images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def with_weights(self, weights: Weights) -> Classifier:
        """Return a network with the weights that the server sent."""
        model = self.fresh(seed=0, weights=False)
        load_weights(model, weights)
        return model

    def outputs(self, model: Classifier, positions: Tensor) -> Outputs:
        """Run a network over some images of the shard, in one pass."""
        shard = self.shard
        return Outputs(
            *predict(model, shard.images, shard.mean, shard.std, rows=positions)
        )

    def test_outputs(self, model: Classifier) -> Outputs:
        """Run a network over the test images of the shard, in one pass."""
        shard = self.shard
        return Outputs(*predict(model, shard.test_images, shard.mean, shard.std))

    def labeled_images(self, holdings: Holdings) -> LabeledImages:
        """Return the training set, normalized."""
        return LabeledImages(self.inputs(holdings.labeled), holdings.labels)

    def inputs(self, positions: Tensor) -> Tensor:
        """Return some images of the shard as a network takes them."""
        images = self.shard.images[positions]
        return as_input(images, self.shard.mean, self.shard.std)
