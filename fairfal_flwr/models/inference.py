"""From stored images to a network's outputs, without gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fairfal_flwr.models.classifier import Classifier

__all__ = ["as_input", "on_device", "predict"]

BATCH_SIZE = 512


def as_input(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize images for a network.

    Parameters
    ----------
    images : Tensor, shape (N, channels, height, width), uint8
        As stored.
    mean, std : sequence of float, length channels
        Of each channel, on the scale where 255 is 1.

    Returns
    -------
    Tensor, same shape, float32
        (x / 255 - mean) / std, in channels-last memory order.
    """
    center = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    scaled = (images.float() / 255 - center) / scale
    return scaled.contiguous(memory_format=torch.channels_last)


def on_device(model: Classifier, device: torch.device | str) -> Classifier:
    """Move a network to a device, in the memory order of `as_input`; return it."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


@torch.no_grad()  # not inference_mode: a strategy may train on the outputs
def predict(
    model: Classifier,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return class probabilities and features from one pass over the images.

    Parameters
    ----------
    model : Classifier
        Used in evaluation mode and left in the mode it was in.
    images : Tensor, shape (N, channels, height, width), uint8
        On the model's device; not augmented.
    mean, std : sequence of float
        See `as_input`.
    rows : Tensor, shape (M,), int64, optional
        Which images, in which order; all of them by default. They are fetched batch by
        batch, so what is mapped from disk is never in memory as a whole.

    Returns
    -------
    probs : Tensor, shape (N, C), or (M, C) for `rows`, float32
        Softmax of the logits.
    features : Tensor, shape (N, D) or (M, D), float32
        Input of the linear layer.
    """
    was_training = model.training
    model.eval()
    parts = torch.split(images if rows is None else rows, BATCH_SIZE)
    batches = [
        model.features_and_logits(
            as_input(part if rows is None else images[part], mean, std)
        )
        for part in parts
    ]
    model.train(was_training)
    features = torch.cat([features for features, _ in batches])
    logits = torch.cat([logits for _, logits in batches])
    return logits.softmax(dim=1), features
