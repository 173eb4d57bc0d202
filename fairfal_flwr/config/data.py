"""The section `data`, and which of its keys each partitioner takes."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator

from fairfal_flwr.config.generated import IMAGE_SETS
from fairfal_flwr.config.section import OneOf, Section

__all__ = ["PARTITIONERS", "DataConfig"]

# The user's own images are taken as they are found: all of them, in equal parts. The
# published sets are made scarce and non-IID, as the paper does.
_OWN_IMAGES = ("folder", "npz")
_AS_FOUND = {"imbalance_ratio": 1.0, "partitioner": "iid"}
_DEMO = {"imbalance_ratio": 5.0, "partitioner": "balanced-dirichlet"}

# Each partitioner with the keys that it alone, or with few others, takes.
PARTITIONERS: dict[str, tuple[str, ...]] = {
    "balanced-dirichlet": ("alpha",),
    "iid": (),
    "dirichlet": ("alpha",),
    "inner-dirichlet": ("alpha",),
    "pathological": ("classes-per-client",),
    "shard": ("classes-per-client",),
    "linear": (),
    "square": (),
    "exponential": (),
}


class DataConfig(Section):
    """Which images there are and how they are dealt to the clients."""

    name: Annotated[str, OneOf(IMAGE_SETS, "hf:NAME", r"hf:\S+")] = Field(
        "digits", description="The image set (docs/data.md)."
    )
    class_names: str = Field(
        "",
        description="Names of the classes, separated by commas. Needed for images "
        "without class folders and for a server without images; else it must agree "
        "with the image set.",
    )
    image_size: int = Field(
        0,
        ge=0,
        description="Side in pixels that all images are resized to; 0 leaves them as "
        "they are.",
    )
    channels: Literal[0, 1, 3] = Field(
        0, description="1 makes all images grey, 3 RGB; 0 leaves them as they are."
    )
    normalization: Literal["auto", "half", "imagenet"] = Field(
        "auto",
        description="Mean and standard deviation of the pixels: the published ones of "
        "the image set (0.5 where there are none), 0.5, or those of ImageNet.",
    )
    server_test: bool = Field(
        True,
        description="Whether the server has test images. If not, it reads none: "
        "`class-names`, `image-size` and `channels` say what the clients have.",
    )
    long_tail: Literal["exp", "step"] = Field(
        "exp",
        description="How the training images thin out from the first class to the "
        "last: evenly, or at once after half of the classes.",
    )
    imbalance_ratio: float = Field(
        0.0,
        ge=0,
        description="Long tail of the training images: the largest class over the "
        "smallest (the paper's rho), at least 1, which keeps all images. 0 is 1 for "
        "`folder` and `npz`, one's own images, and 5 for the published sets.",
    )
    partitioner: Annotated[str, OneOf(("auto", *PARTITIONERS))] = Field(
        "auto",
        description="How the images are dealt to the clients: the paper's deal in "
        "equal sizes, or a partitioner of flwr-datasets. `auto` is `iid` for `folder` "
        "and `npz`, and `balanced-dirichlet` for the published sets.",
    )
    alpha: float = Field(
        0.1,
        gt=0,
        description="Dirichlet concentration of the classes over the clients: 0.1 is "
        "extremely non-IID, 100 nearly homogeneous.",
    )
    classes_per_client: int = Field(
        2,
        ge=1,
        description="Classes of a client with `pathological`, its slices of the "
        "sorted images with `shard`.",
    )
    partition_seed: int = Field(
        -1,
        ge=-1,
        description="Seed of the deal of images to clients. -1 follows `seed`; the "
        "paper's code always uses 0.",
    )
    memory_mb: int = Field(
        2048,
        ge=0,
        description="Images of a split or shard above this size in MiB stay on disk "
        "and are mapped into memory.",
    )
    cache_mb: int = Field(
        4096,
        ge=0,
        description="Room in MiB for shards that are kept ready under `state-dir`; 0 "
        "keeps none.",
    )

    @field_validator("class_names")
    @classmethod
    def _are_names(cls, text: str) -> str:
        names = _comma_separated(text)
        if text and (len(names) < 2 or "" in names or len(set(names)) < len(names)):
            raise ValueError("allowed: two or more different names, such as 'cat,dog'")
        return text

    @field_validator("imbalance_ratio")
    @classmethod
    def _is_a_ratio(cls, ratio: float) -> float:
        if 0 < ratio < 1:
            raise ValueError("allowed: 0, or a number >= 1")
        return ratio

    def resolved(self) -> Self:
        """Return the section with what the image set stands for where it may say so."""
        usual = _AS_FOUND if self.name in _OWN_IMAGES else _DEMO
        chosen = {
            "imbalance_ratio": self.imbalance_ratio or usual["imbalance_ratio"],
            "partitioner": usual["partitioner"]
            if self.partitioner == "auto"
            else self.partitioner,
        }
        return self.model_copy(update=chosen)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in `class_names`."""
        return _comma_separated(self.class_names)


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()
