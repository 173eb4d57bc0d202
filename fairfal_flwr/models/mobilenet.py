"""MobileNetV2 in its form for small images: three halvings instead of five.

MobileNetV2: Inverted Residuals and Linear Bottlenecks
    Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov, Liang-Chieh Chen.
    CVPR 2018.
"""

from functools import partial

from torch import Tensor, nn

from fairfal_flwr.models.classifier import Classifier, require_side
from fairfal_flwr.models.stages import MIN_SIDE, pooled_classifier, stage

__all__ = ["mobilenet"]

STEM_WIDTH, LAST_WIDTH = 32, 1280
# Table 2 of the paper: expansion t, channels c, blocks n, stride s of the first block.
# The stem and the second row keep the size here.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; around it where shapes agree.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the maps.
    stride : int
        Of the filter.
    expansion : int
        Inner channels per channel of the input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        widen = _unit(in_channels, inner, 1) if expansion != 1 else []
        self.layers = nn.Sequential(
            *widen,
            *_unit(inner, inner, 3, stride, groups=inner),
            *_unit(inner, out_channels, 1, activation=False),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (N, out_channels, ⌈height / stride⌉, ⌈width / stride⌉)."""
        inside: Tensor = self.layers(images)
        return images + inside if self.has_shortcut else inside


def _unit(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: bool = True,
) -> list[nn.Module]:
    """Return a convolution, its normalization and, unless told not to, ReLU6."""
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=kernel // 2,
        groups=groups,
        bias=False,
    )
    unit: list[nn.Module] = [convolution, nn.BatchNorm2d(out_channels)]
    return [*unit, nn.ReLU6()] if activation else unit


def mobilenet(
    in_channels: int, image_size: tuple[int, int], num_classes: int
) -> Classifier:
    """Build MobileNetV2 for small images, with 1280 features.

    Parameters
    ----------
    in_channels, image_size, num_classes
        As for `resnet18`, the smallest image too.
    """
    require_side(image_size, MIN_SIDE)
    layers = _unit(in_channels, STEM_WIDTH, 3)
    width = STEM_WIDTH
    for expansion, channels, count, stride in STAGES:
        block = partial(InvertedResidual, expansion=expansion)
        layers += stage(block, width, channels, count, stride)
        width = channels
    layers += _unit(width, LAST_WIDTH, 1)
    return pooled_classifier(layers, LAST_WIDTH, num_classes)
