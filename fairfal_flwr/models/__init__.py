"""The networks, by name."""

from collections.abc import Callable
from functools import partial

import torch

from fairfal_flwr.models.classifier import Classifier
from fairfal_flwr.models.cnn4 import cnn4
from fairfal_flwr.models.from_torchvision import PREFIX, from_torchvision
from fairfal_flwr.models.inference import as_input, predict
from fairfal_flwr.models.mobilenet import mobilenet
from fairfal_flwr.models.resnet import resnet10, resnet18

__all__ = [
    "MODELS",
    "Classifier",
    "as_input",
    "build_model",
    "input_rule",
    "predict",
]

MODELS = {
    "cnn4": cnn4,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "mobilenet": mobilenet,
}


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
        A key of `MODELS`, or ``torchvision:`` and the name of a classifier.
    in_channels, image_size, num_classes
        The shape of the task: channels, (height, width), classes.
    seed : int
        Determines the initialization; torch's global random state is left as it was.

    Raises
    ------
    ValueError
        If the images do not suit the network, or torchvision lacks it.
    """
    build: Callable[[int, tuple[int, int], int], Classifier]
    if name.startswith(PREFIX):
        build = partial(from_torchvision, name.removeprefix(PREFIX))
    else:
        build = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(in_channels, image_size, num_classes)


def input_rule(name: str, in_channels: int) -> str:
    """Say what a network does to its images before the first layer, if anything."""
    if name.startswith(PREFIX) and in_channels == 1:
        return "grey images are repeated three times, since the network takes RGB"
    return "images go in as they are"
