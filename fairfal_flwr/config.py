"""The run configuration: every key, its type, its range and its meaning.

Flower hands an app a flat mapping of dotted, kebab-case keys. It is parsed here, once,
into one frozen `RunConfig`; nothing else in the package reads raw configuration.
`python -m fairfal_flwr.config` prints the reference that `docs/configuration.md` holds.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fairfal_flwr.data.datasets import SOURCES, known_names
from fairfal_flwr.errors import UserError
from fairfal_flwr.models import MODELS
from fairfal_flwr.query.registry import STRATEGIES, resolve

if TYPE_CHECKING:
    from fairfal_flwr.data.specs import ImageSpec, PartitionSpec

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

    name: str = Field("digits", description="The image set (docs/data.md).")
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
        5.0,
        ge=1,
        description="Long tail of the training images: the largest class over the "
        "smallest (the paper's rho). 1 keeps all images.",
    )
    partitioner: Literal[
        "balanced-dirichlet",
        "iid",
        "dirichlet",
        "inner-dirichlet",
        "pathological",
        "shard",
        "linear",
        "square",
        "exponential",
    ] = Field(
        "balanced-dirichlet",
        description="How the images are dealt to the clients: the paper's deal in "
        "equal sizes, or a partitioner of flwr-datasets.",
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

    @field_validator("name")
    @classmethod
    def _has_source(cls, name: str) -> str:
        if name not in SOURCES and not re.fullmatch(r"hf:\S+", name):
            raise ValueError(f"allowed: {known_names()}")
        return name

    @field_validator("class_names")
    @classmethod
    def _are_names(cls, text: str) -> str:
        names = _comma_separated(text)
        if text and (len(names) < 2 or "" in names or len(set(names)) < len(names)):
            raise ValueError("allowed: two or more different names, such as 'cat,dog'")
        return text

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in `class_names`."""
        return _comma_separated(self.class_names)


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


class ModelConfig(_Section):
    """The network that is trained."""

    name: str = Field("cnn4", description="The architecture (docs/data.md).")
    weights: str = Field(
        "",
        description="File of weights to start from instead of a random "
        "initialization, .safetensors or .pth, on the server and on every client.",
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in MODELS and not re.fullmatch(r"torchvision:\w+", name):
            raise ValueError(f"allowed: {_known_models()}")
        return name


def _known_models() -> str:
    return f"{', '.join(MODELS)}, torchvision:NAME"


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
    """How the clients' models become one (docs/federation.md).

    The keys from `server-learning-rate` on are arguments of the strategy; one that the
    chosen strategy does not take must keep its default.
    """

    strategy: Literal[
        "fedavg",
        "fedavgm",
        "fedprox",
        "scaffold",
        "fedadam",
        "fedadagrad",
        "fedyogi",
        "qfedavg",
        "fedmedian",
        "fedtrimmedavg",
        "krum",
        "multikrum",
        "bulyan",
    ] = Field("fedavg", description="The aggregation strategy.")
    fraction_train: float = Field(
        1.0, gt=0, le=1, description="Fraction of the clients that train in a round."
    )
    fraction_evaluate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the clients that also test the global model on their "
        "own test shards, in the rounds that `campaign.evaluate-every` names. Above 0, "
        "their counts of test images per class travel (docs/privacy.md).",
    )
    quorum: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Fraction of a round's clients whose replies are enough to go on.",
    )
    round_retries: int = Field(
        2,
        ge=0,
        description="How often a round below the quorum is repeated for the clients "
        "that are missing, before the run stops.",
    )
    connect_timeout: float = Field(
        10.0, ge=0, description="Seconds to wait for the SuperNodes to connect."
    )
    round_timeout: float = Field(
        3600.0, gt=0, description="Seconds to wait for the replies of one round."
    )
    server_learning_rate: float = Field(
        1.0,
        gt=0,
        description="Step of the server along the clients' mean update: `fedavgm`, "
        "`scaffold`.",
    )
    server_momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of that step: `fedavgm`."
    )
    proximal_mu: float = Field(
        0.01,
        ge=0,
        description="Weight mu of the proximal term mu/2 |w - w_global|^2: `fedprox`.",
    )
    eta: float = Field(
        0.1,
        gt=0,
        description="The server's learning rate: `fedadam`, `fedadagrad`, `fedyogi`.",
    )
    beta_1: float = Field(
        0.9, ge=0, lt=1, description="Decay of the first moment: `fedadam`, `fedyogi`."
    )
    beta_2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the second moment: `fedadam`, `fedyogi`.",
    )
    tau: float = Field(
        1e-3,
        gt=0,
        description="Floor under the adaptive scale: `fedadam`, `fedadagrad`, "
        "`fedyogi`.",
    )
    q: float = Field(
        0.1,
        ge=0,
        description="Fairness: how strongly a client's loss raises its say: `qfedavg`.",
    )
    client_learning_rate: float = Field(
        0.0,
        ge=0,
        description="Inverse of the Lipschitz constant that `qfedavg` assumes; 0 is "
        "`train.lr`.",
    )
    beta: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="Fraction cut off at both ends of each coordinate: "
        "`fedtrimmedavg`.",
    )
    num_malicious_nodes: int = Field(
        0,
        ge=0,
        description="Hostile clients to withstand: `krum`, `multikrum`, `bulyan`.",
    )
    num_nodes_to_select: int = Field(
        1, ge=1, description="Clients whose models are averaged: `multikrum`."
    )


class PrivacyConfig(_Section):
    """Differential privacy of the clients' updates (docs/privacy.md).

    The keys from `noise-multiplier` on are arguments of the mechanism; one that the
    chosen mechanism does not take must keep its default.
    """

    mechanism: Literal[
        "none",
        "server-fixed",
        "client-fixed",
        "server-adaptive",
        "client-adaptive",
        "local",
    ] = Field(
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


class TrainConfig(_Section):
    """One client's training in one round (SGD)."""

    objective: Literal["supervised", "kcfu", "alignment"] = Field(
        "supervised",
        description="The loss: cross-entropy on the labels; KAFAL's, with section "
        "`kcfu`; CHASe's, with section `alignment`.",
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


class KCFUConfig(_Section):
    """KAFAL's loss: it makes up for classes that a client has few labels of.

    Read where `train.objective` is `kcfu`.
    """

    beta: float = Field(
        2.0,
        gt=0,
        description="Two unlabeled images are mixed in proportions drawn from the "
        "Beta distribution with this value twice.",
    )
    start_round: int = Field(
        2,
        ge=1,
        description="Round of a cycle from which unlabeled images take part.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="`faithful` mixes all images of a batch with the same one, as the "
        "published code does; `corrected` each with another.",
    )


class AlignmentConfig(_Section):
    """CHASe's loss: it holds a client to the global model, or to its own past.

    Read where `train.objective` is `alignment`.
    """

    weight: float = Field(
        1.0, ge=0, description="Weight of the alignment beside the cross-entropy (mu)."
    )
    temperature: float = Field(
        0.5, gt=0, description="Divides the cosine similarities of the logits."
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="`faithful` aligns every image with the global model, as the "
        "published code does; `corrected` only those whose prediction changed at "
        "least as often as the mean, the others with the client's previous model.",
    )


class LocalConfig(_Section):
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


class DistillConfig(_Section):
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
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="`faithful` keeps the last weights, as the published code does in "
        "effect; `corrected` those of the lowest loss, as it meant to.",
    )


class QueryConfig(_Section):
    """Which images are sent to annotation from the second cycle on."""

    strategy: str = Field(
        "fairfal",
        description="The query strategy, or `module:function` for one of your own "
        "(docs/strategies.md).",
    )
    model: Literal[
        "auto",
        "global",
        "local",
        "local-last",
        "finetuned",
        "distilled",
        "adaptive",
        "adaptive-reversed",
    ] = Field(
        "auto",
        description="The model that a strategy with the option `model` goes by: the "
        "global one; one trained from scratch on the labels; the client's own after "
        "its last round; the global one fine-tuned on the labels; IFAL's distilled "
        "one; FairFAL's choice; the one it does not choose. `auto` is the strategy's "
        "own default.",
    )
    max_pool: int = Field(
        0,
        ge=0,
        description="Images of a client that a query looks at, drawn at random from "
        "its unlabeled ones; 0 is all. Never fewer than are to be labeled.",
    )

    @field_validator("strategy")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            resolve(name)
        except ValueError as error:
            if ":" not in name:
                raise ValueError(f"allowed: {_known_strategies()}") from None
            raise ValueError(
                f"{str(error).rstrip('.')}; allowed: a function of a module in the "
                "app's folder or installed"
            ) from None
        return name

    @field_validator("model")
    @classmethod
    def _taken(cls, model: str, info: ValidationInfo) -> str:
        strategy = info.data.get("strategy")
        if strategy is None or model == "auto":
            return model
        taken = resolve(strategy).choices("model")
        if model not in taken:
            allowed = ", ".join(["auto", *taken])
            raise ValueError(f"allowed with `query.strategy` {strategy!r}: {allowed}")
        return model


def _known_strategies() -> str:
    return ", ".join([*sorted(STRATEGIES), "module:function"])


class FairFALConfig(_Section):
    """Options of the query strategy `fairfal`."""

    threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="The global model provides the uncertainty where the score "
        "s = 1 - (divergence + imbalance) / 2 exceeds this (the paper's delta).",
    )
    prototypes: Literal["global", "local"] = Field(
        "global",
        description="The model whose features give the prototypes and pseudo-labels.",
    )
    candidates: bool = Field(
        True,
        description="Whether k-center chooses among uncertain candidates alone; false "
        "leaves this stage out.",
    )
    candidate_factor: float = Field(
        4.0,
        ge=1,
        description="Uncertain candidates per class, as a multiple of the class's "
        "quota (the paper's kappa).",
    )
    k_center: bool = Field(
        True,
        description="Whether k-center chooses among the candidates; false leaves this "
        "stage out and takes the most uncertain of each class.",
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


Flavor = Literal["entropy", "badge"]
Quirks = Literal["faithful", "corrected"]


class AlfaMixConfig(_Section):
    """Options of the query strategy `alfa-mix`."""

    alpha_cap_step: float = Field(
        0.2,
        gt=0,
        le=1,
        description="The cap on the mixing grows by this until enough images flip.",
    )
    quirks: Quirks = Field(
        "faithful",
        description="Whose last layer judges the mixtures: `faithful` always the "
        "global model's, as the published code does; `corrected` that of "
        "`query.model`.",
    )


class BaldConfig(_Section):
    """Options of the query strategy `bald`, which needs a network with dropout."""

    num_passes: int = Field(20, ge=1, description="Passes with other units dropped.")


class ChaseConfig(_Section):
    """Options of the query strategy `chase`."""

    score: Literal["variation", "variation-entropy"] = Field(
        "variation",
        description="What ranks the images: how often the prediction changed between "
        "the epochs of the last round; or this plus the entropy of the global model "
        "minus that of the client's own.",
    )
    subset: int = Field(
        500,
        ge=1,
        description="Images awake that are looked at; never fewer than are to be "
        "labeled.",
    )
    awaken_ratio: float = Field(
        0.4, ge=0, le=1, description="Fraction of the dormant images that wake at once."
    )
    awaken_factor: float = Field(
        3.0,
        ge=0,
        description="They wake where at most so many times the budget are awake.",
    )


class DeepfoolConfig(_Section):
    """Options of the query strategy `deepfool`."""

    max_iterations: int = Field(10, ge=1, description="Steps at most.")
    quirks: Quirks = Field(
        "faithful",
        description="Which boundary a step heads for: `faithful` that of the last "
        "class, as the published code does; `corrected` the nearest.",
    )


class DiverseBatchConfig(_Section):
    """Options of the query strategy `diverse-batch`."""

    prefilter_factor: int = Field(
        10,
        ge=1,
        description="So many times the budget, of the smallest margin, are clustered.",
    )


class EnsembleLogitConfig(_Section):
    """Options of the query strategy `ensemble-logit`."""

    flavor: Flavor = Field(
        "entropy",
        description="What is averaged over the models: class probabilities for their "
        "entropy, or the gradient embeddings of BADGE.",
    )


class EnsembleRankConfig(_Section):
    """Options of the query strategy `ensemble-rank`."""

    flavor: Flavor = Field("entropy", description="How a model orders its list.")
    rank_constant: int = Field(
        20, ge=1, description="An item of rank r, from 0, scores 1 / (this + r)."
    )


class FinetuningConfig(_Section):
    """Options of the query strategy `finetuning`."""

    flavor: Flavor = Field(
        "entropy", description="The strategy that the fine-tuned model is put to."
    )


class GcnalConfig(_Section):
    """Options of the query strategy `gcnal`."""

    variant: Literal["core", "uncertain"] = Field(
        "core",
        description="CoreGCN, k-center on the hidden layer; or UncertainGCN, scores "
        "near `margin`.",
    )
    subset: int = Field(
        10_000,
        ge=1,
        description="Unlabeled nodes at most; never fewer than are to be labeled.",
    )
    hidden: int = Field(128, ge=1, description="Units of the hidden layer.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout behind it.")
    steps: int = Field(200, ge=1, description="Steps of Adam.")
    lr: float = Field(1e-3, gt=0, description="Its learning rate.")
    weight_decay: float = Field(5e-4, ge=0, description="Its weight decay.")
    unlabeled_weight: float = Field(
        1.2, ge=0, description="Weight of the unlabeled samples in the loss (lambda)."
    )
    margin: float = Field(
        0.1, ge=0, le=1, description="The score that UncertainGCN looks for."
    )


class IfalConfig(_Section):
    """Options of the query strategy `ifal`; see also section `distill`."""

    num_neighbors: int = Field(
        250,
        ge=1,
        description="Of each sample, among the unlabeled ones; a smaller pool gives "
        "all.",
    )
    quirks: Quirks = Field(
        "faithful",
        description="The distance of two distributions: `faithful` compares them "
        "sorted, blind to which class is which, as the published code does; "
        "`corrected` is the total variation.",
    )


class KsasConfig(_Section):
    """Options of the query strategy `ksas`."""

    log_prior: float = Field(
        1.0,
        ge=0,
        description="How much the client's class counts shift both predictions.",
    )


class LogoConfig(_Section):
    """Options of the query strategy `logo`."""

    num_starts: int = Field(10, ge=1, description="Runs of k-means; the best is kept.")


class TypiclustConfig(_Section):
    """Options of the query strategy `typiclust`."""

    max_clusters: int = Field(500, ge=1, description="Clusters at most.")
    min_cluster_size: int = Field(5, ge=1, description="Smaller clusters come last.")
    num_neighbors: int = Field(
        20, ge=1, description="Neighbors whose nearness makes a sample typical."
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
    privacy: PrivacyConfig = Field(default_factory=PrivacyConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    kcfu: KCFUConfig = Field(default_factory=KCFUConfig)
    alignment: AlignmentConfig = Field(default_factory=AlignmentConfig)
    local: LocalConfig = Field(default_factory=LocalConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    query: QueryConfig = Field(default_factory=QueryConfig)
    fairfal: FairFALConfig = Field(default_factory=FairFALConfig)
    alfa_mix: AlfaMixConfig = Field(default_factory=AlfaMixConfig)
    bald: BaldConfig = Field(default_factory=BaldConfig)
    chase: ChaseConfig = Field(default_factory=ChaseConfig)
    deepfool: DeepfoolConfig = Field(default_factory=DeepfoolConfig)
    diverse_batch: DiverseBatchConfig = Field(default_factory=DiverseBatchConfig)
    ensemble_logit: EnsembleLogitConfig = Field(default_factory=EnsembleLogitConfig)
    ensemble_rank: EnsembleRankConfig = Field(default_factory=EnsembleRankConfig)
    finetuning: FinetuningConfig = Field(default_factory=FinetuningConfig)
    gcnal: GcnalConfig = Field(default_factory=GcnalConfig)
    ifal: IfalConfig = Field(default_factory=IfalConfig)
    ksas: KsasConfig = Field(default_factory=KsasConfig)
    logo: LogoConfig = Field(default_factory=LogoConfig)
    typiclust: TypiclustConfig = Field(default_factory=TypiclustConfig)

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

    def strategy_options(self, name: str) -> dict[str, Scalar]:
        """Return the options of a query strategy, by argument name."""
        section = getattr(self, name.replace("-", "_"), None)
        options = section.model_dump() if isinstance(section, _Section) else {}
        if name == self.query.strategy and self.query.model != "auto":
            options["model"] = self.query.model
        return options

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
    names = {
        "query.strategy": _known_strategies(),
        "data.name": known_names(),
        "model.name": _known_models(),
    }
    section = None
    for key, value, field in _walk(RunConfig()):
        head = key.rpartition(".")[0]
        if head != section:
            section = head
            owner = getattr(RunConfig(), head.replace("-", "_"), None)
            doc = type(owner).__doc__ if owner else "The whole run."
            lines += ["", f"## {head or 'General'}", "", doc or "", ""]
            lines += ["| key | default | takes | meaning |", "|---|---|---|---|"]
        default = f"`{str(value).lower() if isinstance(value, bool) else value}`"
        shown = default if value != "" else '`""`'
        takes = names.get(key) or _allowed(field)
        lines.append(f"| `{key}` | {shown} | {takes} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
