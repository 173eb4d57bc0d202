"""The networks, by name."""

import torch

from fairfal_flwr.models.classifier import Classifier
from fairfal_flwr.models.cnn4 import cnn4
from fairfal_flwr.models.inference import as_input, predict

__all__ = ["MODELS", "Classifier", "as_input", "build_model", "predict"]

MODELS = {"cnn4": cnn4}


def build_model(
    name: str,
    *,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    seed: int,
) -> Classifier:
    """Build a freshly initialized network.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    in_channels, image_size, num_classes
        The shape of the task: channels, (height, width), classes.
    seed : int
        Determines the initialization; torch's global random state is left as it was.

    Raises
    ------
    ValueError
        If the images do not suit the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](in_channels, image_size, num_classes)
