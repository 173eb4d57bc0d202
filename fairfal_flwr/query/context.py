"""What a query strategy sees and what it returns."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol, Self, TypedDict, Unpack

import torch
from torch import Generator, Tensor, nn

from fairfal_flwr.query.adaptive_rule import AdaptiveRule

__all__ = ["Model", "Network", "Outputs", "QueryContext", "Selection", "Split"]

Model = Literal["global", "local", "local-last", "finetuned", "distilled"]
Split = Literal["pool", "labeled"]
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Network(Protocol):
    """A network whose last layer is linear: what a strategy may ask of a model."""

    backbone: nn.Module
    head: nn.Linear

    def modules(self) -> Iterator[nn.Module]:
        """Yield the network and all modules inside it."""

    def features_and_logits(self, inputs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, C) from one forward pass."""


@dataclass(frozen=True)
class Outputs:
    """One model's view of one set of samples, from one forward pass.

    Parameters
    ----------
    probs : Tensor, shape (N, C), float32
        Class probabilities; every row sums to 1. NumPy's arrays do as well.
    features : Tensor, shape (N, D), float32
        Input of the last linear layer, not normalized.

    Raises
    ------
    ValueError
        If the shapes do not fit each other or a row of `probs` is no distribution.
    """

    probs: Tensor
    features: Tensor

    def __post_init__(self) -> None:
        for name in ("probs", "features"):
            if not isinstance(array := getattr(self, name), Tensor):
                tensor = torch.as_tensor(array, dtype=torch.float32)
                object.__setattr__(self, name, tensor)
        if self.probs.ndim != 2 or self.features.ndim != 2:
            raise ValueError(
                "Expected probs (N, C) and features (N, D), got "
                f"{tuple(self.probs.shape)} and {tuple(self.features.shape)}."
            )
        if len(self.probs) != len(self.features):
            raise ValueError(
                f"Expected as many probs as features, got {len(self.probs)} and "
                f"{len(self.features)}."
            )
        sums = self.probs.sum(dim=1)
        if (self.probs < 0).any() or not sums.allclose(
            torch.ones_like(sums), atol=1e-3
        ):
            raise ValueError("Expected every row of probs to be a distribution.")

    def __len__(self) -> int:
        return len(self.probs)


class Extras(TypedDict, total=False):
    """What a `QueryContext` may be given beside outputs, labels and sizes."""

    global_imbalance: float | None
    generator: Generator | None
    load_network: Callable[[Model], Network] | None
    load_inputs: Callable[[Split], Tensor] | None
    memory: Mapping[str, Tensor]
    adaptive: AdaptiveRule


class QueryContext:
    """Everything a strategy may look at.

    Outputs, networks and inputs are made on first use and once. The labels of the pool
    are not here, so no strategy can reach them.

    Parameters
    ----------
    compute_outputs : Callable[[Model, Split], Outputs]
        Runs one model over one split; called at most once for each pair.
    labels : Tensor, shape (M,), int64
        Classes of the labeled samples, in the order of the ``"labeled"`` outputs.
    pool_size : int
        Number of unlabeled samples N; positions are in [0, N).
    num_classes : int
        Number of classes C.
    global_imbalance : float, optional
        The campaign's mean imbalance, in (0, 1] (method §3.3).
    generator : torch.Generator, optional
        The only source of randomness; a CPU generator seeded with 0 by default.
    load_network : Callable[[Model], Network], optional
        Returns a model's network, for strategies that need its weights or gradients.
    load_inputs : Callable[[Split], Tensor], optional
        Returns a split as the networks take it, float32, normalized.
    memory : Mapping[str, Tensor], each of shape (N,), int64
        What is remembered of the pool samples, by name: what the strategy's watches saw
        in the last round of local training, and its last `Selection.memory`.
    adaptive : AdaptiveRule
        How an adaptive choice of the model is made; FairFAL's by default.

    Raises
    ------
    ValueError
        If a label lies outside [0, C), or a tensor has the wrong shape or type.
    """

    def __init__(
        self,
        compute_outputs: Callable[[Model, Split], Outputs],
        *,
        labels: Tensor,
        pool_size: int,
        num_classes: int,
        global_imbalance: float | None = None,
        generator: Generator | None = None,
        load_network: Callable[[Model], Network] | None = None,
        load_inputs: Callable[[Split], Tensor] | None = None,
        memory: Mapping[str, Tensor] = NOTHING,
        adaptive: AdaptiveRule = AdaptiveRule(),  # noqa: B008 (frozen)
    ) -> None:
        _check_tensor("labels", labels, torch.int64, "M")
        lowest, highest = map(int, labels.aminmax()) if len(labels) else (0, 0)
        if not 0 <= lowest <= highest < num_classes:
            raise ValueError(
                f"Expected labels in [0, {num_classes}), got {lowest} to {highest}."
            )
        for name, values in memory.items():
            _check_tensor(f"memory {name!r}", values, torch.int64, "N", pool_size)
        self._compute_outputs = compute_outputs
        self._load_network = load_network
        self._load_inputs = load_inputs
        self._outputs: dict[tuple[Model, Split], Outputs] = {}
        self._networks: dict[Model, Network] = {}
        self._inputs: dict[Split, Tensor] = {}
        self.labels = labels
        self.pool_size = pool_size
        self.num_classes = num_classes
        self.global_imbalance = global_imbalance
        self.generator = generator or Generator().manual_seed(0)
        self.memory = memory
        self.adaptive = adaptive

    @classmethod
    def from_outputs(
        cls,
        outputs: Mapping[tuple[Model, Split], Outputs],
        *,
        labels: Tensor,
        num_classes: int,
        **extras: Unpack[Extras],
    ) -> Self:
        """Build a context from arrays that are already there.

        Parameters
        ----------
        outputs : Mapping[tuple[Model, Split], Outputs]
            Keyed by model and split, such as ``("global", "pool")``. At least one
            ``"pool"`` entry; a strategy that asks for a missing one gets a `KeyError`.
        labels, num_classes, **extras
            As for the class; most strategies need no more than these two.

        Raises
        ------
        ValueError
            If the sizes do not fit each other.

        Examples
        --------
        >>> pool = Outputs(torch.full((3, 2), 0.5), torch.ones(3, 4))
        >>> context = QueryContext.from_outputs(
        ...     {("global", "pool"): pool}, labels=torch.tensor([0]), num_classes=2
        ... )
        >>> context.pool_size
        3
        """
        pool_sizes = {len(o) for (_, split), o in outputs.items() if split == "pool"}
        labeled_sizes = {len(o) for (_, split), o in outputs.items() if split != "pool"}
        if len(pool_sizes) != 1:
            raise ValueError(f"Expected one size of pool, got {sorted(pool_sizes)}.")
        if not labeled_sizes <= {len(labels)}:
            raise ValueError(
                f"Expected outputs for {len(labels)} labeled samples, got "
                f"{sorted(labeled_sizes)}."
            )
        if any(o.probs.shape[1] != num_classes for o in outputs.values()):
            raise ValueError(f"Expected probabilities of {num_classes} classes.")

        def find(model: Model, split: Split) -> Outputs:
            if (model, split) not in outputs:
                given = ", ".join(f"{m} on {s}" for m, s in outputs)
                raise KeyError(f"No outputs of {model} on {split}; given are: {given}.")
            return outputs[model, split]

        return cls(
            find,
            labels=labels,
            pool_size=pool_sizes.pop(),
            num_classes=num_classes,
            **extras,
        )

    def outputs(self, model: Model, split: Split) -> Outputs:
        """Return one model's outputs on one split, computed on first use.

        Parameters
        ----------
        model : {"global", "local", "local-last", "finetuned", "distilled"}
            The final aggregate of the previous cycle; the model that the client
            trained from scratch on its labels alone; the client's weights after its
            last round of federated training; the global model fine-tuned on the
            client's labels; the model distilled on them from the global one (IFAL).
        split : {"pool", "labeled"}
            Rows are in the order of the pool's positions or of `labels`.
        """
        key = (model, split)
        if key not in self._outputs:
            self._outputs[key] = self._compute_outputs(model, split)
        return self._outputs[key]

    def network(self, model: Model) -> Network:
        """Return one model's network; leave its weights and modes as they are.

        Raises
        ------
        ValueError
            If the context was built without `load_network`.
        """
        if self._load_network is None:
            raise ValueError(
                f"This strategy needs the {model} network itself, not only its "
                "outputs: give the context `load_network`."
            )
        if model not in self._networks:
            self._networks[model] = self._load_network(model)
        return self._networks[model]

    def inputs(self, split: Split) -> Tensor:
        """Return a split as the networks take it: float32, first dimension N or M.

        Raises
        ------
        ValueError
            If the context was built without `load_inputs`.
        """
        if self._load_inputs is None:
            raise ValueError(
                f"This strategy needs the inputs of the {split} samples, not only "
                "their outputs: give the context `load_inputs`."
            )
        if split not in self._inputs:
            self._inputs[split] = self._load_inputs(split)
        return self._inputs[split]

    def remembered(self, name: str) -> Tensor:
        """Return what is remembered of each pool sample, shape (N,), int64.

        Raises
        ------
        ValueError
            If the context was built without it.
        """
        if name not in self.memory:
            raise ValueError(
                f"This strategy needs what is remembered as {name!r} of each sample of "
                "the pool: give it to the context in `memory`."
            )
        return self.memory[name]

    def require_labels(self, strategy: str) -> None:
        """Raise a `ValueError` that names the strategy if no sample is labeled."""
        if not len(self.labels):
            raise ValueError(f"{strategy} needs at least one labeled sample.")


def _check_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype, axis: str, size: int | None = None
) -> None:
    wrong_size = size is not None and tensor.shape != (size,)
    if tensor.ndim != 1 or tensor.dtype != dtype or wrong_size:
        expected = f"({axis},)" if size is None else f"({axis},) = ({size},)"
        raise ValueError(
            f"Expected {str(dtype).removeprefix('torch.')} {name} of shape {expected}, "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}."
        )


@dataclass(frozen=True)
class Selection:
    """What a strategy chose.

    Parameters
    ----------
    positions : Tensor, shape (budget,), int64
        Distinct positions in the pool, the most wanted first where the strategy ranks.
    suggestions : Tensor, shape (budget,), int64, optional
        A guess of the class of each, to show to the annotator.
    notes : Mapping[str, float]
        Scalars for the client's own record; they never leave it unless named in a
        message.
    scores : Tensor, shape (budget,), float, optional
        Why each was chosen, where the strategy goes by a score: larger is more wanted.
        Those of one selection compare; those of two strategies do not.
    memory : Mapping[str, Tensor], each of shape (N,), int64
        By name, what to hand back as `QueryContext.memory` at the next query.
    """

    positions: Tensor
    suggestions: Tensor | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    scores: Tensor | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
