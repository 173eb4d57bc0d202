"""What the networks in their form for small images share: stages, then one pool."""

from collections.abc import Callable, Iterable

from torch import nn

from fairfal_flwr.models.classifier import Classifier

__all__ = ["MIN_SIDE", "pooled_classifier", "stage"]

MIN_SIDE = 9
"""Halved three times, rounding up, it leaves 2 pixels: one image has a variance."""


def stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    out_channels: int,
    count: int,
    stride: int,
) -> list[nn.Module]:
    """Return blocks in a row, of which the first takes the stride.

    Parameters
    ----------
    block : callable
        Makes one from the channels of its input, those of its output, and a stride.
    in_channels, out_channels : int
        Of the first block's input; of everything after.
    count : int
        Number of blocks.
    stride : int
        Of the first.
    """
    first = block(in_channels, out_channels, stride)
    return [first, *(block(out_channels, out_channels, 1) for _ in range(count - 1))]


def pooled_classifier(
    layers: Iterable[nn.Module], width: int, num_classes: int
) -> Classifier:
    """Put a mean over each of `width` maps and one linear layer behind layers."""
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(backbone, nn.Linear(width, num_classes))
