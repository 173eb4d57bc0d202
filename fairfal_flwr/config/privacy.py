"""The section `privacy`, and which of its keys each mechanism takes."""

from typing import Annotated, Any

from pydantic import Field

from fairfal_flwr.config.section import OneOf, Section

__all__ = ["MECHANISMS", "PrivacyConfig"]

_FIXED = ("noise-multiplier", "clipping-norm", "delta")
_ADAPTIVE = (
    "noise-multiplier",
    "clipping-norm",
    "target-clipped-quantile",
    "clip-norm-lr",
    "clipped-count-stddev",
)

MECHANISMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "server-fixed": _FIXED,
    "client-fixed": _FIXED,
    "server-adaptive": _ADAPTIVE,
    "client-adaptive": _ADAPTIVE,
    "local": ("clipping-norm", "epsilon", "delta", "sensitivity"),
}


class PrivacyConfig(Section):
    """Differential privacy of the clients' updates (docs/privacy.md).

    The keys from `noise-multiplier` on are arguments of the mechanism.
    """

    mechanism: Annotated[str, OneOf(tuple(MECHANISMS))] = Field(
        "none",
        description="Who clips an update, and to a norm that is fixed or adapts; "
        "`local` clips and adds noise on the client, the others add it on the server.",
    )
    noise_multiplier: float = Field(
        1.0,
        ge=0,
        description="Standard deviation of the server's noise over the sensitivity.",
    )
    clipping_norm: float = Field(
        1.0,
        gt=0,
        description="Largest L2 norm of an update; where it adapts, the first one.",
    )
    target_clipped_quantile: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the updates that pass the adaptive norm unclipped.",
    )
    clip_norm_lr: float = Field(
        0.2, gt=0, description="Learning rate of the adaptive norm."
    )
    clipped_count_stddev: float = Field(
        0.0,
        ge=0,
        description="Noise on the count of clipped updates; 0 is a twentieth of the "
        "round's clients.",
    )
    epsilon: float = Field(
        1.0, gt=0, description="Privacy of one round of the `local` mechanism."
    )
    delta: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description="Probability that the guarantee fails: of one round for `local`, "
        "of the whole run for the fixed mechanisms.",
    )
    sensitivity: float = Field(
        0.0,
        ge=0,
        description="How much one client's update can move in the `local` mechanism; "
        "0 is twice `clipping-norm`.",
    )

    @property
    def adds_noise(self) -> bool:
        """Whether the server adds the noise, to a mean with equal weights."""
        return self.mechanism not in ("none", "local")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the chosen mechanism."""
        return self.chosen(MECHANISMS[self.mechanism])
