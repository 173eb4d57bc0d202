# ruff: noqa: E501, RUF001
"""What strategies, networks and image sets there are, and the strategies' keys.

Written by `make config` from their code; do not edit. After a conflict in it, take
either side and say `make config`.
"""

from typing import Literal

from pydantic import Field

from fairfal_flwr.config.section import Section
from fairfal_flwr.config.strategy import QueryStrategy

IMAGE_SETS = (
    "digits",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "bloodmnist",
    "breastmnist",
    "dermamnist",
    "octmnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
    "pathmnist",
    "pneumoniamnist",
    "retinamnist",
    "tissuemnist",
    "folder",
    "npz",
)
NETWORKS = ("cnn4", "resnet10", "resnet18", "mobilenet")
ModelWord = Literal[
    "auto",
    "global",
    "local",
    "local-last",
    "finetuned",
    "distilled",
    "adaptive",
    "adaptive-reversed",
]
ANY_MODEL = (
    "global",
    "local",
    "local-last",
    "finetuned",
    "distilled",
    "adaptive",
    "adaptive-reversed",
)
STRATEGIES: dict[str, QueryStrategy] = {
    "alfa-mix": QueryStrategy("global", ANY_MODEL, ("global",)),
    "badge": QueryStrategy("global", ANY_MODEL, ("global",)),
    "bald": QueryStrategy("global", ANY_MODEL, ("global",)),
    "chase": QueryStrategy(),
    "coreset": QueryStrategy("global", ANY_MODEL, ("global",)),
    "deepfool": QueryStrategy("global", ANY_MODEL, ("global",)),
    "diverse-batch": QueryStrategy("global", ANY_MODEL, ("global",)),
    "egl": QueryStrategy("global", ANY_MODEL, ("global",)),
    "ensemble-logit": QueryStrategy("", (), ("global", "local")),
    "ensemble-rank": QueryStrategy("", (), ("global", "local")),
    "entropy": QueryStrategy("global", ANY_MODEL, ("global",)),
    "fairfal": QueryStrategy(
        "adaptive",
        ("adaptive", "adaptive-reversed", "global", "local"),
        ("global", "local"),
        True,
    ),
    "finetuning": QueryStrategy("", (), ("finetuned",)),
    "gcnal": QueryStrategy("global", ANY_MODEL, ("global",)),
    "ifal": QueryStrategy("", (), ("global", "local-last", "distilled")),
    "ksas": QueryStrategy("", (), ("global", "local-last")),
    "least-confidence": QueryStrategy("global", ANY_MODEL, ("global",)),
    "logo": QueryStrategy("", (), ("global", "local")),
    "margin": QueryStrategy("global", ANY_MODEL, ("global",)),
    "random": QueryStrategy(),
    "typiclust": QueryStrategy("global", ANY_MODEL, ("global",)),
}


class AdaptiveConfig(Section):
    """Which model queries by FairFAL's rule; read where the choice is adaptive."""

    threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="The global model queries where the score s = 1 - (divergence + imbalance) / 2 exceeds this (the paper's delta).",
    )
    balance_seed: int = Field(
        42, ge=0, description="Seed of the class-balanced resampling of the labels."
    )


class AlfaMixConfig(Section):
    """Options of the query strategy `alfa-mix`."""

    alpha_cap_step: float = Field(
        0.2,
        description="In (0, 1]. The cap ε on the mixing grows by this until more than b samples have flipped or it reaches 1.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description='Whose last layer judges the mixtures: "faithful" always the global model\'s, though the features may be the local one\'s; "corrected" that of `model`.',
    )


class BaldConfig(Section):
    """Options of the query strategy `bald`."""

    num_passes: int = Field(
        20, description="T, at least 1: passes with other units dropped."
    )


class ChaseConfig(Section):
    """Options of the query strategy `chase`."""

    score: Literal["variation", "variation-entropy"] = Field(
        "variation",
        description='EV, or EV plus the entropy of the global model minus that of "local-last", scaled to [0, 1] (the variant `Tloc-ab`).',
    )
    subset: int = Field(
        500,
        description="At most so many samples awake are looked at, drawn at random; never fewer than the budget.",
    )
    awaken_ratio: float = Field(0.4, description="See `awaken`.")
    awaken_factor: float = Field(3.0, description="See `awaken`.")


class DeepfoolConfig(Section):
    """Options of the query strategy `deepfool`."""

    max_iterations: int = Field(
        10,
        description="Steps at most; what has not changed by then keeps the sum of its steps.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description='Which boundary a step heads for: "faithful" that of the last class, since the published code never updates its running minimum; "corrected" the nearest.',
    )


class DiverseBatchConfig(Section):
    """Options of the query strategy `diverse-batch`."""

    prefilter_factor: int = Field(
        10,
        description="β, at least 1: the β·b samples of the smallest margin are clustered, each weighted by 1 − margin.",
    )


class EnsembleLogitConfig(Section):
    """Options of the query strategy `ensemble-logit`."""

    flavor: Literal["entropy", "badge"] = Field(
        "entropy",
        description='"entropy" averages the class probabilities, as the published code does in spite of the name; "badge" averages the gradient embeddings.',
    )


class EnsembleRankConfig(Section):
    """Options of the query strategy `ensemble-rank`."""

    flavor: Literal["entropy", "badge"] = Field(
        "entropy",
        description="How a model orders its list: by entropy, or as BADGE draws.",
    )
    rank_constant: int = Field(
        20, description="At least 1; see `reciprocal_rank_scores`."
    )


class FairfalConfig(Section):
    """Options of the query strategy `fairfal`."""

    threshold: float = Field(
        0.75,
        description="δ: the global model judges uncertainty where its score exceeds this.",
    )
    prototypes: Literal["global", "local"] = Field(
        "global",
        description="Whose features give the prototypes and the pseudo-labels.",
    )
    candidates: bool = Field(
        True,
        description="False leaves out the second stage: k-center over all that are pseudo-labeled as the class.",
    )
    candidate_factor: float = Field(
        4.0,
        description="κ, at least 1: candidates per class, as a multiple of its quota.",
    )
    k_center: bool = Field(
        True,
        description="False leaves out the third stage: the most uncertain of each class, whatever `candidates` says.",
    )
    gradient_model: Literal["auto", "global"] = Field(
        "auto",
        description="Whose softmax enters the gradient embedding; \"auto\" is the global model's where γ̄ < `gradient-threshold`, else the local one's.",
    )
    gradient_threshold: float = Field(0.5, description="See `gradient-model`.")
    balance_seed: int = Field(42, description="Seed of the balanced subset.")


class FinetuningConfig(Section):
    """Options of the query strategy `finetuning`."""

    flavor: Literal["entropy", "badge"] = Field(
        "entropy", description="The strategy that the model is put to."
    )


class GcnalConfig(Section):
    """Options of the query strategy `gcnal`."""

    variant: Literal["core", "uncertain"] = Field(
        "core",
        description="CoreGCN: k-center on the hidden layer, from the labeled samples. UncertainGCN: the samples whose score s is nearest to `margin`.",
    )
    subset: int = Field(
        10000,
        description="At most so many unlabeled nodes, drawn at random; never fewer than the budget.",
    )
    hidden: int = Field(128, description="The network's width and how Adam trains it.")
    dropout: float = Field(
        0.3, description="The network's width and how Adam trains it."
    )
    steps: int = Field(200, description="The network's width and how Adam trains it.")
    lr: float = Field(0.001, description="The network's width and how Adam trains it.")
    weight_decay: float = Field(
        0.0005, description="The network's width and how Adam trains it."
    )
    unlabeled_weight: float = Field(
        1.2,
        description="λ in the loss −mean_L log s − λ mean_U log(1 − s) (equation 5).",
    )
    margin: float = Field(0.1, description='For "uncertain".')


class IfalConfig(Section):
    """Options of the query strategy `ifal`."""

    num_neighbors: int = Field(
        250,
        description="Of each labeled or unlabeled sample, among the others of the pool.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="The distance between distributions; see `distribution_distance`.",
    )


class KsasConfig(Section):
    """Options of the query strategy `ksas`."""

    log_prior: float = Field(
        1.0,
        description="λ: how much the client's class counts sharpen both predictions.",
    )


class LogoConfig(Section):
    """Options of the query strategy `logo`."""

    num_starts: int = Field(
        10,
        description="Runs of k-means of which the best is kept; 10 was scikit-learn's default when the paper was written.",
    )


class TypiclustConfig(Section):
    """Options of the query strategy `typiclust`."""

    max_clusters: int = Field(
        500,
        description="There are min(M + b, this) clusters of labeled and unlabeled samples.",
    )
    min_cluster_size: int = Field(5, description="Smaller clusters come last.")
    num_neighbors: int = Field(20, description="See `typicalities`.")


class StrategySections(Section):
    """One section for each query strategy with options, and the model choice."""

    adaptive: AdaptiveConfig = Field(default_factory=AdaptiveConfig)
    alfa_mix: AlfaMixConfig = Field(default_factory=AlfaMixConfig)
    bald: BaldConfig = Field(default_factory=BaldConfig)
    chase: ChaseConfig = Field(default_factory=ChaseConfig)
    deepfool: DeepfoolConfig = Field(default_factory=DeepfoolConfig)
    diverse_batch: DiverseBatchConfig = Field(default_factory=DiverseBatchConfig)
    ensemble_logit: EnsembleLogitConfig = Field(default_factory=EnsembleLogitConfig)
    ensemble_rank: EnsembleRankConfig = Field(default_factory=EnsembleRankConfig)
    fairfal: FairfalConfig = Field(default_factory=FairfalConfig)
    finetuning: FinetuningConfig = Field(default_factory=FinetuningConfig)
    gcnal: GcnalConfig = Field(default_factory=GcnalConfig)
    ifal: IfalConfig = Field(default_factory=IfalConfig)
    ksas: KsasConfig = Field(default_factory=KsasConfig)
    logo: LogoConfig = Field(default_factory=LogoConfig)
    typiclust: TypiclustConfig = Field(default_factory=TypiclustConfig)
