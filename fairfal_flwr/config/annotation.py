"""The section `annotation`."""

from pydantic import Field

from fairfal_flwr.config.section import Section

__all__ = ["AnnotationConfig"]


class AnnotationConfig(Section):
    """How a cycle's labels are asked for."""

    quorum: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Fraction of the clients whose answers to a query are enough to go "
        "on; the others keep the labels they have and take part in the next cycle's.",
    )
