"""What every network of the package is: features, then one linear layer."""

from torch import Tensor, nn

__all__ = ["Classifier", "require_side"]


def require_side(image_size: tuple[int, int], least: int) -> None:
    """Refuse images with a side below `least` pixels.

    Raises
    ------
    ValueError
        If one is.
    """
    if min(image_size) < least:
        raise ValueError(f"needs images of at least {least}x{least} pixels")


class Classifier(nn.Module):
    """A network whose last layer is linear.

    Parameters
    ----------
    backbone : nn.Module
        Maps images (N, channels, height, width) to features (N, D).
    head : nn.Linear
        Maps features (N, D) to logits (N, C).
    smallest_batch : int, default 1
        Images that training needs at once: 2 where BatchNorm sees maps of one pixel,
        whose variance over one image does not exist.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Linear, *, smallest_batch: int = 1
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.smallest_batch = smallest_batch

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (N, C)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, C) from one forward pass."""
        features: Tensor = self.backbone(images)
        return features, self.head(features)
