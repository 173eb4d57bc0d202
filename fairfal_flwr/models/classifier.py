"""What every network of the package is: features, then one linear layer."""

from torch import Tensor, nn

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """A network whose last layer is linear.

    Parameters
    ----------
    backbone : nn.Module
        Maps images (N, channels, height, width) to features (N, D).
    head : nn.Linear
        Maps features (N, D) to logits (N, C).
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (N, C)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, C) from one forward pass."""
        features: Tensor = self.backbone(images)
        return features, self.head(features)
