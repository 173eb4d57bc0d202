"""The run configuration: every key, its type, its range and its meaning.

Flower hands an app a flat mapping of dotted, kebab-case keys. It is parsed here, once,
into one frozen `RunConfig`; nothing else in the package reads raw configuration.
`python -m fairfal_flwr.config` prints the reference that `docs/configuration.md` holds.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fairfal_flwr.errors import UserError
from fairfal_flwr.query.registry import STRATEGIES

__all__ = ["RunConfig", "Scalar", "reference"]

Scalar = bool | int | float | str


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        allow_inf_nan=False,
    )


class DataConfig(_Section):
    """Which images there are and how they are dealt to the clients."""

    name: Literal["digits", "fashion-mnist"] = Field(
        "digits", description="The image set."
    )
    imbalance_ratio: float = Field(
        5.0,
        ge=1,
        description="Long tail of the training images: the largest class over the "
        "smallest (the paper's rho). 1 keeps all images.",
    )
    alpha: float = Field(
        0.1,
        gt=0,
        description="Dirichlet concentration of the classes over the clients: 0.1 is "
        "extremely non-IID, 100 nearly homogeneous.",
    )
    partition_seed: int = Field(
        -1,
        ge=-1,
        description="Seed of the deal of images to clients. -1 follows `seed`; the "
        "paper's code always uses 0.",
    )


class ModelConfig(_Section):
    """The network that is trained."""

    name: Literal["cnn4"] = Field("cnn4", description="The architecture.")


class CampaignConfig(_Section):
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


class FederationConfig(_Section):
    """How the clients' models become one."""

    strategy: Literal["fedavg"] = Field(
        "fedavg", description="Flower's aggregation strategy."
    )
    fraction_train: float = Field(
        1.0, gt=0, le=1, description="Fraction of the clients that train in a round."
    )
    fraction_evaluate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the clients that also test the global model on their "
        "own test shards, in the rounds that `campaign.evaluate-every` names.",
    )
    connect_timeout: float = Field(
        10.0, ge=0, description="Seconds to wait for the SuperNodes to connect."
    )
    round_timeout: float = Field(
        3600.0, gt=0, description="Seconds to wait for the replies of one round."
    )


class TrainConfig(_Section):
    """One client's training in one round (cross-entropy, SGD)."""

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


class LocalConfig(_Section):
    """The local model that a client trains from scratch on its labels alone."""

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


class QueryConfig(_Section):
    """Which images are sent to annotation from the second cycle on."""

    strategy: str = Field("fairfal", description="The query strategy.")

    @field_validator("strategy")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in STRATEGIES:
            raise ValueError(f"allowed: {', '.join(sorted(STRATEGIES))}")
        return name


class FairFALConfig(_Section):
    """Options of the query strategy `fairfal`."""

    threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="The global model provides the uncertainty where the score "
        "s = 1 - (divergence + imbalance) / 2 exceeds this (the paper's delta).",
    )
    candidate_factor: float = Field(
        4.0,
        ge=1,
        description="Uncertain candidates per class, as a multiple of the class's "
        "quota (the paper's kappa).",
    )
    gradient_model: Literal["auto", "global"] = Field(
        "auto",
        description="Whose softmax enters the gradient embedding: `auto` is the "
        "global model's where the mean imbalance is below `gradient-threshold`, else "
        "the local one's (the paper's code); `global` always the global model's (the "
        "paper's text).",
    )
    gradient_threshold: float = Field(
        0.5, ge=0, le=1, description="See `gradient-model`."
    )
    balance_seed: int = Field(
        42, ge=0, description="Seed of the class-balanced resampling of the labels."
    )


class RunConfig(_Section):
    """Everything a run can be told, parsed and checked.

    Build it with `RunConfig.from_flat` from Flower's run config; the attributes
    mirror the keys with underscores.

    Examples
    --------
    >>> RunConfig.from_flat({"campaign.num-cycles": 9}).campaign.num_cycles
    9
    """

    seed: int = Field(
        0,
        ge=0,
        description="Everything random in the run follows from it.",
    )
    num_clients: int = Field(
        5, ge=1, description="Clients (SuperNodes) that take part."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where clients compute; `auto` takes a GPU where there is one.",
    )
    threads: int = Field(
        1,
        ge=1,
        description="CPU threads of a client. Results are bitwise the same for the "
        "same number.",
    )
    data_dir: str = Field(
        "", description="Folder of the image set; empty looks in the usual places."
    )
    output_dir: str = Field(
        "",
        description="Folder for results; empty is `runs` in the per-user data folder "
        "(`FAIRFAL_HOME` overrides that folder).",
    )
    state_dir: str = Field(
        "",
        description="Folder for the clients' label ledgers; empty is `state` in the "
        "per-user data folder.",
    )
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    campaign: CampaignConfig = Field(default_factory=CampaignConfig)
    federation: FederationConfig = Field(default_factory=FederationConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    local: LocalConfig = Field(default_factory=LocalConfig)
    query: QueryConfig = Field(default_factory=QueryConfig)
    fairfal: FairFALConfig = Field(default_factory=FairFALConfig)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Parse Flower's flat mapping of dotted keys.

        Parameters
        ----------
        values : Mapping[str, Any]
            Such as ``{"train.lr": 0.1}``. Missing keys take their defaults.

        Raises
        ------
        UserError
            One line that names each wrong key, what it is and what is allowed.
        """
        nested: dict[str, Any] = {}
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            target = nested.setdefault(section, {}) if section else nested
            if not isinstance(target, dict):
                raise UserError(f"Run config: {_unknown(key)}.")
            target[name] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            problems = "; ".join(_explain(detail) for detail in error.errors())
            raise UserError(f"Run config: {problems}.") from None

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key with its value, the inverse of `from_flat`."""
        return {key: value for key, value, _ in _walk(self)}

    def strategy_options(self) -> dict[str, Scalar]:
        """Return the options of the chosen query strategy, by argument name."""
        section = getattr(self, self.query.strategy.replace("-", "_"), None)
        return section.model_dump() if isinstance(section, _Section) else {}

    @property
    def partition_seed(self) -> int:
        """The seed of the deal of images to clients."""
        seed = self.data.partition_seed
        return self.seed if seed == -1 else seed


def _walk(section: _Section, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{field.alias}", getattr(section, name)
        if isinstance(value, _Section):
            yield from _walk(value, f"{key}.")
        else:
            yield key, value, field


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, RunConfig().to_flat(), n=1)
    return f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else "")


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return _unknown(key)
    fields = {name: field for name, _, field in _walk(RunConfig())}
    found = f"`{key}` is {detail['input']!r}"
    if detail["type"] == "value_error":
        return f"{found}; {detail['ctx']['error']}"
    allowed = _allowed(fields[key]) if key in fields else "a section of keys"
    return f"{found}; allowed: {allowed}"


def _allowed(field: FieldInfo) -> str:
    """Say in words which values a field takes."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(str(value) for value in get_args(annotation))
    kinds = {int: "integer", float: "number", str: "text", bool: "true or false"}
    words = [kinds.get(annotation, str(annotation))]  # type: ignore[arg-type]
    for bound in field.metadata:
        match bound:
            case Ge(ge=limit):
                words.append(f">= {limit}")
            case Gt(gt=limit):
                words.append(f"> {limit}")
            case Le(le=limit):
                words.append(f"<= {limit}")
            case Lt(lt=limit):
                words.append(f"< {limit}")
    return " ".join(words)


def reference() -> str:
    """Return the Markdown reference of all keys, grouped by section."""
    lines = [
        "# Configuration",
        "",
        "Every key of the run config, with its default and what it takes. Override "
        "keys on the command line,",
        "`flwr run . -c 'campaign.num-cycles=9 query.strategy=\"random\"'`, or with a "
        "TOML file, `flwr run . -c configs/fmnist-quick.toml`.",
        "A mistake is answered with one line before any client is bothered.",
        "",
        "This page is printed by `python -m fairfal_flwr.config` and checked by a "
        "test.",
    ]
    section = None
    for key, value, field in _walk(RunConfig()):
        head = key.rpartition(".")[0]
        if head != section:
            section = head
            doc = type(getattr(RunConfig(), head)).__doc__ if head else "The whole run."
            lines += ["", f"## {head or 'General'}", "", doc or "", ""]
            lines += ["| key | default | takes | meaning |", "|---|---|---|---|"]
        default = f"`{str(value).lower() if isinstance(value, bool) else value}`"
        shown = default if value != "" else '`""`'
        takes = (
            ", ".join(sorted(STRATEGIES))
            if key == "query.strategy"
            else _allowed(field)
        )
        lines.append(f"| `{key}` | {shown} | {takes} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
