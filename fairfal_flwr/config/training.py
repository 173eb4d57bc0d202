"""The sections `train`, `local` and `distill`."""

from typing import Annotated, Literal

from pydantic import Field

from fairfal_flwr.config.generated import OBJECTIVES
from fairfal_flwr.config.section import OneOf, Section
from fairfal_flwr.kinds import Quirks

__all__ = ["DistillConfig", "LocalConfig", "TrainConfig"]


class TrainConfig(Section):
    """One client's training in one round (SGD)."""

    objective: Annotated[str, OneOf(OBJECTIVES)] = Field(
        "supervised",
        description="The loss: cross-entropy on the labels, or what the section of its "
        "name says.",
    )
    epochs: int = Field(5, ge=1, description="Local epochs in a round.")
    batch_size: int = Field(64, ge=1, description="Images in a mini-batch.")
    lr: float = Field(0.01, gt=0, description="Learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum.")
    weight_decay: float = Field(1e-5, ge=0, description="SGD weight decay.")
    lr_decay: float = Field(
        0.1, gt=0, le=1, description="Factor on the learning rate late in a phase."
    )
    lr_decay_at: float = Field(
        0.75,
        ge=0,
        le=1,
        description="The factor applies once the 0-based round index exceeds this "
        "fraction of `campaign.num-rounds` (rounded down).",
    )
    horizontal_flip: bool = Field(
        False, description="Mirror each training image with probability 1/2."
    )


class LocalConfig(Section):
    """The local model, trained on a client's labels alone.

    From scratch for `local`, from the global model for `finetuned`.
    """

    max_epochs: int = Field(50, ge=1, description="Epochs at most.")
    stop_accuracy: float = Field(
        0.99,
        gt=0,
        le=1,
        description="Stop early once the accuracy on the labels reaches this.",
    )
    lr_milestone: int = Field(
        37,
        ge=1,
        description="`train.lr-decay` applies after this many units.",
    )
    lr_milestone_unit: Literal["step", "epoch"] = Field(
        "step",
        description="What `lr-milestone` counts: optimizer steps, as the paper's code "
        "does, or epochs.",
    )
    quirks: Quirks = Field(
        "faithful",
        description="`faithful` measures the accuracy that stops the training on "
        "images that are mirrored as in training, as the published code does; "
        "`corrected` on the images as they are.",
    )


class DistillConfig(Section):
    """The model `distilled`, trained on the labels and the global model's softmax.

    Read where the query asks for that model, as `ifal` does.
    """

    temperature: float = Field(4.0, gt=0, description="Of both softmaxes (T).")
    weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Weight of T^2 times the divergence from the global model; the "
        "cross-entropy on the labels has the rest.",
    )
    lr_factor: float = Field(
        0.1, gt=0, description="The learning rate is `train.lr` times this."
    )
    max_epochs: int = Field(500, ge=1, description="Epochs at most.")
    patience: int = Field(
        5,
        ge=1,
        description="Stop after so many epochs without a new lowest training loss.",
    )
    quirks: Quirks = Field(
        "faithful",
        description="`faithful` keeps the last weights, as the published code does in "
        "effect, and watches the mean loss of the batches; `corrected` keeps those of "
        "the lowest loss, as it meant to, and watches the mean over the images.",
    )
