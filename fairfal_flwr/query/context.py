"""What a query strategy sees and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

__all__ = ["Model", "Outputs", "QueryContext", "Selection", "Split"]

Model = Literal["global", "local", "local-last", "finetuned", "distilled"]
Split = Literal["pool", "labeled"]


@dataclass(frozen=True)
class Outputs:
    """One model's view of one set of samples, from one forward pass.

    Parameters
    ----------
    probs : Tensor, shape (N, C), float32
        Class probabilities; every row sums to 1.
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


class QueryContext:
    """Everything a strategy may look at.

    Outputs are computed on first use and once. The labels of the pool are not here, so
    no strategy can reach them.

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
        The campaign's mean imbalance, in (0, 1] (METHOD: gamma bar).
    generator : torch.Generator, optional
        The only source of randomness; a CPU generator seeded with 0 by default.

    Raises
    ------
    ValueError
        If a label lies outside [0, C).
    """

    def __init__(
        self,
        compute_outputs: Callable[[Model, Split], Outputs],
        *,
        labels: Tensor,
        pool_size: int,
        num_classes: int,
        global_imbalance: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise ValueError(
                f"Expected int64 labels of shape (M,), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        if (
            len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes
        ):
            raise ValueError(
                f"Expected labels in [0, {num_classes}), got {int(labels.min())} to "
                f"{int(labels.max())}."
            )
        self._compute_outputs = compute_outputs
        self._outputs: dict[tuple[Model, Split], Outputs] = {}
        self.labels = labels
        self.pool_size = pool_size
        self.num_classes = num_classes
        self.global_imbalance = global_imbalance
        self.generator = generator or torch.Generator().manual_seed(0)

    @classmethod
    def from_outputs(
        cls,
        outputs: Mapping[tuple[Model, Split], Outputs],
        *,
        labels: Tensor,
        num_classes: int,
        global_imbalance: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Build a context from arrays that are already there.

        Parameters
        ----------
        outputs : Mapping[tuple[Model, Split], Outputs]
            Keyed by model and split, such as ``("global", "pool")``. At least one
            ``"pool"`` entry; a strategy that asks for a missing one gets a `KeyError`.
        labels, num_classes, global_imbalance, generator
            As for the class.

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
        return cls(
            lambda model, split: outputs[model, split],
            labels=labels,
            pool_size=pool_sizes.pop(),
            num_classes=num_classes,
            global_imbalance=global_imbalance,
            generator=generator,
        )

    def outputs(self, model: Model, split: Split) -> Outputs:
        """Return one model's outputs on one split, computed on first use.

        Parameters
        ----------
        model : {"global", "local"}
            The final aggregate of the previous cycle, or the model that the client
            trained on its labels alone.
        split : {"pool", "labeled"}
            Rows are in the order of the pool's positions or of `labels`.
        """
        key = (model, split)
        if key not in self._outputs:
            self._outputs[key] = self._compute_outputs(model, split)
        return self._outputs[key]


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
    """

    positions: Tensor
    suggestions: Tensor | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
