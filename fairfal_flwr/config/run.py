"""The whole run config, parsed and checked."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError

from fairfal_flwr.config.annotation import AnnotationConfig
from fairfal_flwr.config.campaign import CampaignConfig, ModelConfig
from fairfal_flwr.config.contradictions import contradictions
from fairfal_flwr.config.data import DataConfig
from fairfal_flwr.config.federation import FederationConfig, round_size
from fairfal_flwr.config.generated import STRATEGIES, OptionSections
from fairfal_flwr.config.mistakes import explain, mistake, unknown
from fairfal_flwr.config.pairs import read_options
from fairfal_flwr.config.privacy import PrivacyConfig
from fairfal_flwr.config.query import QueryConfig
from fairfal_flwr.config.section import Scalar, Section, walk
from fairfal_flwr.config.taken import foreign_keys
from fairfal_flwr.config.training import DistillConfig, LocalConfig, TrainConfig

if TYPE_CHECKING:
    from fairfal_flwr.data.specs import ImageSpec, PartitionSpec

__all__ = ["CHANGEABLE", "RunConfig"]

# What may be another when a run is gone on with: it changes no number, or more cycles.
CHANGEABLE = frozenset(
    {
        "device",
        "threads",
        "output-dir",
        "annotation.deadline",
        "annotation.min-labels",
        "annotation.poll-seconds",
        "campaign.num-cycles",
        "campaign.checkpoint-seconds",
        "campaign.resume",
        "data.cache-mb",
        "data.memory-mb",
        "federation.connect-timeout",
        "federation.round-timeout",
        "federation.round-retries",
        "federation.quorum",
        "annotation.quorum",
    }
)


class _Keys(Section):
    """The keys that are not options of a strategy or an objective."""

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
    annotation: AnnotationConfig = Field(default_factory=AnnotationConfig)
    federation: FederationConfig = Field(default_factory=FederationConfig)
    privacy: PrivacyConfig = Field(default_factory=PrivacyConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    local: LocalConfig = Field(default_factory=LocalConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    query: QueryConfig = Field(default_factory=QueryConfig)


# The bases in this order: pydantic lists the keys of the last one first.
class RunConfig(OptionSections, _Keys):
    """Everything a run can be told, parsed and checked.

    Build it with `RunConfig.from_flat` from Flower's run config; the attributes
    mirror the keys with underscores.

    Examples
    --------
    >>> RunConfig.from_flat({"campaign.num-cycles": 9}).campaign.num_cycles
    9
    """

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
        config = cls._parse(values)
        if problems := [*foreign_keys(config).values(), *contradictions(config)]:
            raise mistake(problems)
        return config

    @classmethod
    def keep_taken(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values less those keys that the choices among them do not take.

        So one set of values can serve several strategies.

        Examples
        --------
        >>> RunConfig.keep_taken({"query.strategy": "random", "chase.subset": 9})
        {'query.strategy': 'random'}
        """
        foreign = foreign_keys(cls._parse(values))
        return {key: value for key, value in values.items() if key not in foreign}

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key with its value, the inverse of `from_flat`."""
        return {key: value for key, value, _ in walk(self)}

    def strategy_options(self, name: str) -> dict[str, Scalar]:
        """Return the options of a query strategy, by argument name."""
        section = getattr(self, name.replace("-", "_"), None)
        options = section.model_dump() if name in STRATEGIES and section else {}
        if name == self.query.strategy:
            options |= read_options(self.query.options)
        if name == self.query.strategy and self.query.model != "auto":
            options["model"] = self.query.model
        return options

    def forbidden_changes(self, before: Mapping[str, Any]) -> list[str]:
        """Return the keys in which a run cannot be gone on with, one clause for each.

        Parameters
        ----------
        before : Mapping[str, Any]
            The flat config of the run.
        """
        now = self.to_flat()
        changed = [key for key in now if key in before and now[key] != before[key]]
        return [
            f"`{key}` is {now[key]!r}, the run has {before[key]!r}"
            for key in changed
            if key not in CHANGEABLE
        ]

    @property
    def clients_in_round(self) -> int:
        """How many clients train in a round."""
        return round_size(self.federation.fraction_train, self.num_clients)

    @property
    def partition_seed(self) -> int:
        """The seed of the deal of images to clients."""
        seed = self.data.partition_seed
        return self.seed if seed == -1 else seed

    def image_spec(self, data_path: str = "") -> "ImageSpec":
        """Return which images a node uses: those of its own path, if it has one."""
        from fairfal_flwr.data.specs import ImageSpec

        return ImageSpec(
            name=self.data.name,
            folder=data_path or self.data_dir,
            class_names=self.data.classes,
            image_size=self.data.image_size,
            channels=self.data.channels,
            normalization=self.data.normalization,
            memory_mb=self.data.memory_mb,
            of_one_client=bool(data_path),
        )

    def partition_spec(self) -> "PartitionSpec":
        """Return how images are dealt to the clients."""
        from fairfal_flwr.data.specs import PartitionSpec

        return PartitionSpec(
            num_clients=self.num_clients,
            seed=self.seed,
            partition_seed=self.partition_seed,
            long_tail=self.data.long_tail,
            imbalance_ratio=self.data.imbalance_ratio,
            partitioner=self.data.partitioner,
            alpha=self.data.alpha,
            classes_per_client=self.data.classes_per_client,
        )

    @classmethod
    def _parse(cls, values: Mapping[str, Any]) -> Self:
        fields = {key: field for key, _, field in walk(cls())}
        problems = [
            unknown(key, value, fields)
            for key, value in values.items()
            if key not in fields
        ]
        nested: dict[str, Any] = {}
        for key in values.keys() & fields.keys():
            section, _, name = key.rpartition(".")
            target = nested.setdefault(section, {}) if section else nested
            target[name] = values[key]
        try:
            config = cls.model_validate(nested)
        except ValidationError as error:
            problems += [explain(detail, fields) for detail in error.errors()]
        if problems:
            raise mistake(problems)
        return config.model_copy(update={"data": config.data.resolved()})
