"""The networks, by name, for images of one shape."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from fairfal_flwr.errors import UserError
from fairfal_flwr.models.classifier import Classifier
from fairfal_flwr.models.cnn4 import cnn4
from fairfal_flwr.models.from_torchvision import PREFIX, from_torchvision
from fairfal_flwr.models.initial import start_from
from fairfal_flwr.models.mobilenet import mobilenet
from fairfal_flwr.models.resnet import resnet10, resnet18

__all__ = ["MODELS", "Architecture", "build_model"]

MODELS = {
    "cnn4": cnn4,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "mobilenet": mobilenet,
}


@dataclass(frozen=True)
class Architecture:
    """A network for one kind of images, and what it starts from.

    Attributes
    ----------
    name : str
        `model.name`.
    weights : str
        `model.weights`: a file to start from, or empty.
    in_channels, image_size, num_classes
        The shape of the task: channels, (height, width), classes.
    """

    name: str
    weights: str
    in_channels: int
    image_size: tuple[int, int]
    num_classes: int

    @classmethod
    def for_images(
        cls, name: str, weights: str, images: Tensor, num_classes: int
    ) -> Self:
        """Return the one for images (N, channels, height, width); N may be 0."""
        channels, height, width = images.shape[1:]
        return cls(name, weights, channels, (height, width), num_classes)

    def build(self, seed: int, *, weights: bool = True) -> Classifier:
        """Build the network on the CPU.

        Parameters
        ----------
        seed : int
            Of the random initialization. It also makes a head that the file does not
            have for this number of classes.
        weights : bool, default True
            Whether to read the file of weights; False where others follow at once.

        Raises
        ------
        UserError
            If the network does not take such images, or the file is not its.
        """
        try:
            model = build_model(
                self.name,
                in_channels=self.in_channels,
                image_size=self.image_size,
                num_classes=self.num_classes,
                seed=seed,
            )
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise UserError(
                f"`model.name` is {self.name!r}, which {reason} (`data.image-size` "
                "resizes images)."
            ) from None
        if weights and self.weights:
            start_from(model, self.weights, name=self.name)
        return model

    @property
    def input_rule(self) -> str:
        """What it does to its images before the first layer, if anything."""
        if self.name.startswith(PREFIX) and self.in_channels == 1:
            return "grey images are repeated three times, since the network takes RGB"
        return "images go in as they are"


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
