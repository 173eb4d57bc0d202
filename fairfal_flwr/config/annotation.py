"""The section `annotation`."""

from typing import Literal

from pydantic import Field

from fairfal_flwr.config.section import Section

__all__ = ["AnnotationConfig"]


class AnnotationConfig(Section):
    """How a cycle's labels are asked for."""

    by: Literal["oracle", "person"] = Field(
        "oracle",
        description="Who labels: `oracle` gives the images' own labels, `person` waits "
        "for people, who answer through `fairfal annotate` or `fairfal questions`.",
    )
    quorum: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Fraction of the clients whose answers to a query are enough to go "
        "on; the others keep the labels they have and take part in the next cycle's.",
    )
    deadline: float = Field(
        0.0,
        ge=0,
        description="Seconds that a cycle waits for answers, counted from its "
        "questions; 0 waits until all are answered.",
    )
    min_labels: int = Field(
        1,
        ge=1,
        description="Labels of all clients together that a cycle must add before the "
        "deadline lets it go on; with fewer it waits for them.",
    )
    poll_seconds: float = Field(
        60.0,
        gt=0,
        description="Longest time after which the clients are asked again how many "
        "questions are open.",
    )
    votes: int = Field(
        1,
        ge=1,
        le=2,
        description="People who must agree on a label; where 2 do not, a third "
        "decides.",
    )
    oracle_delay: float = Field(
        0.0,
        ge=0,
        description="Seconds that the oracle takes for each image of a client, one "
        "after the other: a rehearsal of people.",
    )
    oracle_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that the oracle takes an image for one of another "
        "class, each alike; drawn once per image from the seed.",
    )
