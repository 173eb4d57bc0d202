"""ResNets in their form for small images: a 3x3 stem that keeps the size.

Deep Residual Learning for Image Recognition
    Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. CVPR 2016.

The stem for images of ImageNet's size (7x7, stride 2, pooling) would leave a 32x32
image 8x8 before the first block; here it is one 3x3 convolution of stride 1.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from fairfal_flwr.models.classifier import Classifier, require_side
from fairfal_flwr.models.stages import MIN_SIDE, pooled_classifier, stage

__all__ = ["resnet10", "resnet18"]

STEM_WIDTH = 64
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first block


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way around them.

    Parameters
    ----------
    in_channels, out_channels : int
        Where they differ, or `stride` is not 1, the way around is a 1x1 convolution.
    stride : int
        Of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (N, out_channels, ⌈height / stride⌉, ⌈width / stride⌉)."""
        inside = relu(self.norm1(self.conv1(images)))
        inside = self.norm2(self.conv2(inside))
        return relu(inside + self.shortcut(images))


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _resnet(
    blocks_per_stage: int,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
) -> Classifier:
    require_side(image_size, MIN_SIDE)
    width = STEM_WIDTH
    layers = [_conv3x3(in_channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
    for channels, stride in STAGES:
        layers += stage(BasicBlock, width, channels, blocks_per_stage, stride)
        width = channels
    return pooled_classifier(layers, width, num_classes)


def resnet10(
    in_channels: int, image_size: tuple[int, int], num_classes: int
) -> Classifier:
    """Build ResNet-10: one block in each of four stages, 512 features.

    Parameters
    ----------
    in_channels, image_size, num_classes
        See `resnet18`.
    """
    return _resnet(1, in_channels, image_size, num_classes)


def resnet18(
    in_channels: int, image_size: tuple[int, int], num_classes: int
) -> Classifier:
    """Build ResNet-18: two blocks in each of four stages, 512 features.

    Parameters
    ----------
    in_channels : int
        Channels of the images.
    image_size : tuple of int
        Height and width, at least 9, so that a batch of one can be normalized.
    num_classes : int
        Number of classes C.

    Raises
    ------
    ValueError
        If the images are too small.
    """
    return _resnet(2, in_channels, image_size, num_classes)
