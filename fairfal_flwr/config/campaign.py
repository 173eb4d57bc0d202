"""The sections `model` and `campaign`."""

from typing import Annotated, Literal

from pydantic import Field

from fairfal_flwr.config.generated import NETWORKS
from fairfal_flwr.config.section import OneOf, Section

__all__ = ["CampaignConfig", "ModelConfig"]


class ModelConfig(Section):
    """The network that is trained."""

    name: Annotated[str, OneOf(NETWORKS, "torchvision:NAME", r"torchvision:\w+")] = (
        Field("cnn4", description="The architecture (docs/data.md).")
    )
    weights: str = Field(
        "",
        description="File of weights to start from instead of a random "
        "initialization, .safetensors or .pth, on the server and on every client.",
    )


class CampaignConfig(Section):
    """How annotation and federated training alternate."""

    num_cycles: int = Field(
        6,
        ge=1,
        description="Cycles; each is one annotation round, then `num-rounds` rounds "
        "of federated training. The first annotates at random.",
    )
    num_rounds: int = Field(
        10, ge=1, description="Rounds of federated training in a cycle."
    )
    budget: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Fraction of its own images that each client labels in a cycle.",
    )
    reset: Literal["random", "continue"] = Field(
        "random",
        description="The global model at the start of a cycle: freshly initialized, "
        "or the previous cycle's.",
    )
    evaluate_every: int = Field(
        5,
        ge=1,
        description="Test the global model every so many rounds, and always after "
        "the last round of a cycle.",
    )
    resume: str = Field(
        "",
        description="Folder of a run to go on with from its checkpoint, as "
        "`fairfal run --resume` does; empty starts a new run.",
    )
