"""The networks of one client, on its device, over its images."""

from torch import Tensor

from fairfal_flwr.client.pool import Holdings
from fairfal_flwr.client.training import LabeledImages
from fairfal_flwr.config import ModelConfig
from fairfal_flwr.data import Shard
from fairfal_flwr.messages import Weights, load_weights
from fairfal_flwr.models import Architecture, Classifier, as_input, on_device, predict
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
        self.shard = shard
        self.architecture = Architecture.for_images(
            config.name, config.weights, shard.images, shard.num_classes
        )

    def fresh(self, seed: int, *, weights: bool = True) -> Classifier:
        """Return a new network, with the weights of `model.weights` unless told not."""
        model = self.architecture.build(seed, weights=weights)
        return on_device(model, self.shard.images.device)

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
