"""Any classifier of torchvision as features and one linear layer.

Its last linear layer becomes the head; what goes into that layer are the features.
torchvision takes seconds to import, which only these networks cost.
"""

import difflib
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fairfal_flwr.models.classifier import Classifier

__all__ = ["PREFIX", "from_torchvision"]

PREFIX = "torchvision:"
COLORS = 3


class Backbone(nn.Module):
    """A network of torchvision without its last linear layer.

    Parameters
    ----------
    network : nn.Module
        Takes RGB images. Grey images are repeated three times for it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return features, shape (N, D)."""
        if images.shape[1] == 1:
            images = images.expand(-1, COLORS, -1, -1)
        features: Tensor = self.network(images)
        return features


def from_torchvision(
    name: str, in_channels: int, image_size: tuple[int, int], num_classes: int
) -> Classifier:
    """Build a classifier of torchvision with random weights.

    Parameters
    ----------
    name : str
        Such as ``"resnet18"``; one of ``torchvision.models.list_models()``.
    in_channels : int
        1 or 3. These networks take RGB; a grey image is repeated three times.
    image_size : tuple of int
        Height and width.
    num_classes : int
        Number of classes C.

    Raises
    ------
    ValueError
        If there is no such classifier, or it does not take such images.
    """
    if in_channels not in (1, COLORS):
        raise ValueError(f"takes 1 or {COLORS} channels, not {in_channels}")
    smallest_batch = _check(name, image_size)
    network = _network(name, image_size, num_classes)
    place = _head_name(network, num_classes)
    head = network.get_submodule(place)
    assert isinstance(head, nn.Linear)
    _replace(network, place)
    return Classifier(Backbone(network), head, smallest_batch=smallest_batch)


@cache
def _check(name: str, image_size: tuple[int, int]) -> int:
    """Try the network without memory or arithmetic; return its smallest batch."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or known[:3]
        raise ValueError(f"is no such classifier; near: {', '.join(near)}")
    num_classes = 2
    height, width = image_size
    images = torch.empty((2, COLORS, height, width), device="meta")
    network = _network(name, image_size, num_classes)
    _replace(network, _head_name(network, num_classes))
    try:
        features = network.to("meta").eval()(images)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"does not take {width}x{height} images: {reason}") from None
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError("is no classifier with one output")
    try:
        network.train()(images[:1])
    except ValueError:  # of BatchNorm
        return 2
    return 1


def _network(name: str, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    from torchvision.models import get_model

    options: dict[str, Any] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if name == "inception_v3":
        options |= {"transform_input": False}
    if name.startswith("vit_"):
        options |= {"image_size": image_size[0]}
    if name.startswith("maxvit"):
        options |= {"input_size": image_size}
    try:
        network: nn.Module = get_model(name, weights=None, **options)
    except ValueError as error:
        raise ValueError(
            f"does not take {image_size[1]}x{image_size[0]} images: {error}"
        ) from None
    return network


def _head_name(network: nn.Module, num_classes: int) -> str:
    """Return the name of the last linear layer."""
    linear: list[tuple[str, nn.Linear]] = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    if not linear or linear[-1][1].out_features != num_classes:
        raise ValueError("does not end in a linear layer")
    return linear[-1][0]


def _replace(network: nn.Module, name: str) -> None:
    """Put nothing in the place of a layer."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
