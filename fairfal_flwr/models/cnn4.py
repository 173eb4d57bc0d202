"""CNN-4, the paper's network for small images (method §2)."""

from torch import nn

from fairfal_flwr.models.classifier import Classifier, require_side

__all__ = ["cnn4"]

WIDTH = 64
NUM_BLOCKS = 4


def _block(in_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, WIDTH, kernel_size=3, padding=1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def cnn4(in_channels: int, image_size: tuple[int, int], num_classes: int) -> Classifier:
    """Build CNN-4: four blocks of conv 3x3 (64), BatchNorm, ReLU, max-pool 2; linear.

    Parameters
    ----------
    in_channels : int
        Channels of the images.
    image_size : tuple of int
        Height and width, at least 16: each block halves them.
    num_classes : int
        Number of classes C.

    Returns
    -------
    Classifier
        With D = 64 · ⌊height / 16⌋ · ⌊width / 16⌋ features: 64 for 28×28 images, 256
        for 32×32. The bias of the linear layer starts at zero.

    Raises
    ------
    ValueError
        If an image side is below 16.
    """
    height, width = image_size
    shrink = 2**NUM_BLOCKS
    require_side(image_size, shrink)
    head = nn.Linear(WIDTH * (height // shrink) * (width // shrink), num_classes)
    nn.init.zeros_(head.bias)
    blocks = [_block(in_channels), *(_block(WIDTH) for _ in range(NUM_BLOCKS - 1))]
    return Classifier(nn.Sequential(*blocks, nn.Flatten()), head)
