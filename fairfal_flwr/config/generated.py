# ruff: noqa: E501, RUF001
"""What strategies, objectives, networks and image sets there are, and their keys.

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
OBJECTIVES = (
    "alignment",
    "balanced-softmax",
    "evidential",
    "kcfu",
    "logit-adjusted",
    "supervised",
)
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
    "alfa-mix": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Collect samples that flip, cluster them, take one of each cluster.",
    ),
    "badge": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Seed a k-means++ on the gradients that the predicted labels would give.",
    ),
    "bald": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the samples of the largest mutual information of label and weights.",
    ),
    "chase": QueryStrategy(
        "",
        (),
        (),
        False,
        "Take the samples of the largest epistemic variation among those awake.",
    ),
    "coreset": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the sample farthest from labeled and chosen ones, again and again.",
    ),
    "deepfool": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the samples of the smallest perturbation that changes their class.",
    ),
    "diverse-batch": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the sample nearest to each centroid of a weighted k-means.",
    ),
    "egl": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the samples of the largest expected gradient of the last layer's weight.",
    ),
    "ensemble-logit": QueryStrategy(
        "", (), ("global", "local"), False, "Average both models, then choose."
    ),
    "ensemble-rank": QueryStrategy(
        "",
        (),
        ("global", "local"),
        False,
        "Let each model list its favorites, then fuse the lists by reciprocal rank.",
    ),
    "entropy": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the samples of the largest predictive entropy.",
    ),
    "fairfal": QueryStrategy(
        "adaptive",
        ("adaptive", "adaptive-reversed", "global", "local"),
        ("global", "local"),
        True,
        "Query as FairFAL does (method §3–5); the options are the paper's ablations.",
    ),
    "feal": QueryStrategy(
        "",
        (),
        ("global", "local-last"),
        False,
        "Take the largest calibrated uncertainty, walking past crowds already sampled.",
    ),
    "finetuning": QueryStrategy(
        "", (), ("finetuned",), False, "Choose by the fine-tuned model."
    ),
    "gcnal": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Train the graph network on the client's own samples, then choose.",
    ),
    "ifal": QueryStrategy(
        "",
        (),
        ("global", "local-last", "distilled"),
        False,
        "Cluster the inconsistent samples, take one of each cluster.",
    ),
    "ksas": QueryStrategy(
        "",
        (),
        ("global", "local-last"),
        False,
        "Take the samples of the largest knowledge-specialized discrepancy.",
    ),
    "least-confidence": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the samples whose likeliest class is least likely: smallest max_c p_c.",
    ),
    "logo": QueryStrategy(
        "", (), ("global", "local"), False, "Macro step, then micro step."
    ),
    "margin": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the samples whose two likeliest classes are closest.",
    ),
    "random": QueryStrategy(
        "",
        (),
        (),
        False,
        "Choose uniformly, without replacement, from the context's generator.",
    ),
    "typiclust": QueryStrategy(
        "global",
        ANY_MODEL,
        ("global",),
        False,
        "Take the most typical sample of each cluster, uncovered and large ones first.",
    ),
}


class AlignmentConfig(Section):
    """CHASe's loss: it holds a client to the global model, or to its own past.

    Read where `train.objective` is `alignment`.
    """

    weight: float = Field(
        1.0, ge=0, description="Weight of the alignment beside the cross-entropy (μ)."
    )
    temperature: float = Field(
        0.5, gt=0, description="Divides the cosine similarities of the logits (τ)."
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="`faithful` aligns every image with the global model, as the published code does; `corrected` only those whose prediction changed at least as often as the mean, the others with the client's previous model.",
    )


class EvidentialConfig(Section):
    """FEAL's loss: logits are evidence for a Dirichlet distribution.

    Read where `train.objective` is `evidential`.
    """

    weight: float = Field(
        0.01, ge=0, description="Of what regularizes the evidence (λ)."
    )
    annealing_rounds: int = Field(
        10,
        ge=1,
        description="Evidence for wrong classes is held against the network more and more up to this round of a cycle.",
    )


class KcfuConfig(Section):
    """KAFAL's loss: it makes up for classes that a client has few labels of.

    Read where `train.objective` is `kcfu`.
    """

    beta: float = Field(
        2.0,
        gt=0,
        description="Two unlabeled images are mixed in proportions drawn from the Beta distribution with this value twice.",
    )
    start_round: int = Field(
        2, ge=1, description="Round of a cycle from which unlabeled images take part."
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="`faithful` does as the published code: it mixes all images of a batch with the same one, mirrors them where training does, and leaves the server's model in training mode, so that its BatchNorm goes by the batch. `corrected` mixes each with another, as they are, and asks the server's model in evaluation mode.",
    )


class LogitAdjustedConfig(Section):
    """the logit-adjusted loss: rare classes of a client count for more.

    Read where `train.objective` is `logit-adjusted`.
    """

    tau: float = Field(
        1.0,
        gt=0,
        description="How strongly class frequencies count (τ). With 1 this is the balanced softmax.",
    )


class AdaptiveConfig(Section):
    """Which model queries by FairFAL's rule; read where the choice is adaptive."""

    threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="The global model queries where its score s = 1 - (divergence + imbalance) / 2 exceeds this, else the local one (the paper's δ).",
    )
    balance_seed: int = Field(
        42,
        ge=0,
        description="Seed of the class-balanced resampling of the labels that both models are compared on.",
    )


class AlfaMixConfig(Section):
    """Options of the query strategy `alfa-mix`."""

    alpha_cap_step: float = Field(
        0.2,
        gt=0,
        le=1,
        description="The cap ε on the mixing grows by this until more samples than the budget have changed their class or it reaches 1.",
    )
    num_starts: int = Field(
        10,
        ge=1,
        description="Runs of k-means of which the best is kept; 10 were scikit-learn's default when the published code was run.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="Whose last layer judges the mixtures: `faithful` always the global model's, as the published code does, though the features may be another's; `corrected` that of the model that queries.",
    )


class BaldConfig(Section):
    """Options of the query strategy `bald`."""

    num_passes: int = Field(
        20, ge=1, description="Forward passes, each with other units dropped (T)."
    )


class ChaseConfig(Section):
    """Options of the query strategy `chase`."""

    score: Literal["variation", "variation-entropy"] = Field(
        "variation",
        description="What ranks the samples: `variation` is how often the prediction changed between the epochs of the last round (EV); `variation-entropy` adds the entropy of the global model minus that of the client's own (`Tloc-ab`). Both are scaled to [0, 1] over the samples that are looked at.",
    )
    subset: int = Field(
        500,
        ge=1,
        description="Most samples awake that are looked at, drawn at random; never fewer than the budget.",
    )
    awaken_ratio: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Fraction of the dormant samples that wakes at once.",
    )
    awaken_factor: float = Field(
        3.0,
        ge=0,
        description="Dormant samples wake where at most this many times the budget are awake.",
    )


class DeepfoolConfig(Section):
    """Options of the query strategy `deepfool`."""

    max_iterations: int = Field(
        10,
        ge=1,
        description="Steps at most; a sample whose class has not changed by then keeps the sum of its steps.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="Which boundary a step heads for: `faithful` that of the last class, since the published code never updates its running minimum; `corrected` the nearest.",
    )


class DiverseBatchConfig(Section):
    """Options of the query strategy `diverse-batch`."""

    prefilter_factor: int = Field(
        10,
        ge=1,
        description="Samples of the smallest margin that are clustered, as a multiple of the budget (β).",
    )
    num_starts: int = Field(
        10,
        ge=1,
        description="Runs of k-means of which the best is kept; 10 were scikit-learn's default when the published code was run.",
    )


class EnsembleLogitConfig(Section):
    """Options of the query strategy `ensemble-logit`."""

    flavor: Literal["entropy", "badge"] = Field(
        "entropy",
        description="What is averaged over the models: `entropy` the class probabilities, as the published code does in spite of the name; `badge` the gradient embeddings.",
    )


class EnsembleRankConfig(Section):
    """Options of the query strategy `ensemble-rank`."""

    flavor: Literal["entropy", "badge"] = Field(
        "entropy",
        description="How a model orders its list: by `entropy`, or as `badge` draws.",
    )
    rank_constant: int = Field(
        20,
        ge=1,
        description="A sample of rank r, from 0, on a list scores 1 / (this + r).",
    )


class FairfalConfig(Section):
    """Options of the query strategy `fairfal`."""

    prototypes: Literal["global", "local"] = Field(
        "global",
        description="Whose features give the prototypes and the pseudo-labels.",
    )
    candidates: bool = Field(
        True,
        description="Whether k-center chooses among uncertain candidates alone; false leaves this stage out, and it chooses among all that are pseudo-labeled as the class.",
    )
    candidate_factor: float = Field(
        4.0,
        ge=1,
        description="Uncertain candidates per class, as a multiple of the class's quota (κ).",
    )
    k_center: bool = Field(
        True,
        description="Whether k-center chooses among the candidates; false leaves this stage out and takes the most uncertain of each class.",
    )
    gradient_model: Literal["auto", "global"] = Field(
        "auto",
        description="Whose softmax enters the gradient embedding: `auto` the global model's where the mean imbalance γ̄ is below the gradient threshold, else the local one's (the paper's code); `global` always the global model's (the paper's text).",
    )
    gradient_threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The mean imbalance from which on an `auto` gradient model is the local one.",
    )


class FealConfig(Section):
    """Options of the query strategy `feal`."""

    num_neighbors: int = Field(
        5,
        ge=1,
        description="A sample with so many near neighbors in the pool is skipped where one of the nearest so many is chosen (n).",
    )
    similarity: float = Field(
        0.85,
        ge=-1,
        le=1,
        description="Neighbors are near above this cosine of the local model's features (τ).",
    )


class FinetuningConfig(Section):
    """Options of the query strategy `finetuning`."""

    flavor: Literal["entropy", "badge"] = Field(
        "entropy", description="The strategy that the model is put to."
    )


class GcnalConfig(Section):
    """Options of the query strategy `gcnal`."""

    variant: Literal["core", "uncertain"] = Field(
        "core",
        description="`core` is CoreGCN, k-center on the hidden layer from the labeled samples; `uncertain` is UncertainGCN, the samples whose score s is nearest to `margin`.",
    )
    subset: int = Field(
        10000,
        ge=1,
        description="Most unlabeled nodes, drawn at random; never fewer than the budget.",
    )
    hidden: int = Field(128, ge=1, description="Units of the hidden layer.")
    dropout: float = Field(
        0.3, ge=0, lt=1, description="Dropout behind the hidden layer."
    )
    steps: int = Field(
        200, ge=1, description="Training steps of the graph network, by Adam."
    )
    lr: float = Field(0.001, gt=0, description="Adam's learning rate.")
    weight_decay: float = Field(0.0005, ge=0, description="Adam's weight decay.")
    unlabeled_weight: float = Field(
        1.2,
        ge=0,
        description="Weight λ of the unlabeled samples in the loss, −mean_L log s − λ mean_U log(1 − s) (equation 5).",
    )
    margin: float = Field(
        0.1, ge=0, le=1, description="The score s that UncertainGCN looks for."
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="What k-center goes by: `faithful` the hidden layer and, as one more column that outweighs it, the score before the sigmoid, as the published codes do; `corrected` the hidden layer alone.",
    )


class IfalConfig(Section):
    """Options of the query strategy `ifal`."""

    num_neighbors: int = Field(
        250,
        ge=1,
        description="Nearest neighbors of each sample, labeled or not, among the others of the pool; a smaller pool gives all of them.",
    )
    num_starts: int = Field(
        10,
        ge=1,
        description="Runs of k-means of which the best is kept; 10 were scikit-learn's default when the published code was run.",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="The distance between two distributions: `faithful` compares them sorted, blind to which class is which, as the published code does; `corrected` is the total variation.",
    )


class KsasConfig(Section):
    """Options of the query strategy `ksas`."""

    log_prior: float = Field(
        1.0,
        ge=0,
        description="How much the client's class counts sharpen both predictions (λ).",
    )


class LogoConfig(Section):
    """Options of the query strategy `logo`."""

    num_starts: int = Field(
        10,
        ge=1,
        description="Runs of k-means of which the best is kept; 10 were scikit-learn's default when the published code was run.",
    )


class TypiclustConfig(Section):
    """Options of the query strategy `typiclust`."""

    max_clusters: int = Field(
        500,
        ge=1,
        description="Most clusters of labeled and unlabeled samples; there is one for each label and for each sample to choose.",
    )
    min_cluster_size: int = Field(
        5, ge=1, description="Small clusters come last, see `quirks`."
    )
    num_neighbors: int = Field(
        20,
        ge=1,
        description="Neighbors in the cluster whose nearness makes a sample typical (K).",
    )
    quirks: Literal["faithful", "corrected"] = Field(
        "faithful",
        description="`faithful` is the published code: squared distances to at most half of the cluster, sizes count labeled samples too, and a cluster of `min-cluster-size` is small; `corrected`: distances to at most all others, sizes count what can be chosen, and only fewer are small.",
    )


class OptionSections(Section):
    """A section for each strategy or objective with options, and the model choice."""

    alignment: AlignmentConfig = Field(default_factory=AlignmentConfig)
    evidential: EvidentialConfig = Field(default_factory=EvidentialConfig)
    kcfu: KcfuConfig = Field(default_factory=KcfuConfig)
    logit_adjusted: LogitAdjustedConfig = Field(default_factory=LogitAdjustedConfig)
    adaptive: AdaptiveConfig = Field(default_factory=AdaptiveConfig)
    alfa_mix: AlfaMixConfig = Field(default_factory=AlfaMixConfig)
    bald: BaldConfig = Field(default_factory=BaldConfig)
    chase: ChaseConfig = Field(default_factory=ChaseConfig)
    deepfool: DeepfoolConfig = Field(default_factory=DeepfoolConfig)
    diverse_batch: DiverseBatchConfig = Field(default_factory=DiverseBatchConfig)
    ensemble_logit: EnsembleLogitConfig = Field(default_factory=EnsembleLogitConfig)
    ensemble_rank: EnsembleRankConfig = Field(default_factory=EnsembleRankConfig)
    fairfal: FairfalConfig = Field(default_factory=FairfalConfig)
    feal: FealConfig = Field(default_factory=FealConfig)
    finetuning: FinetuningConfig = Field(default_factory=FinetuningConfig)
    gcnal: GcnalConfig = Field(default_factory=GcnalConfig)
    ifal: IfalConfig = Field(default_factory=IfalConfig)
    ksas: KsasConfig = Field(default_factory=KsasConfig)
    logo: LogoConfig = Field(default_factory=LogoConfig)
    typiclust: TypiclustConfig = Field(default_factory=TypiclustConfig)
