"""GCNAL: a graph network learns to tell labeled from unlabeled samples.

Sequential Graph Convolutional Network for Active Learning
    Razvan Caramalau, Binod Bhattarai and Tae-Kyun Kim. CVPR 2021, arXiv 2006.10219.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid, normalize
from torch.optim.adam import adam

from fairfal_flwr.kinds import Quirks
from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.k_center import cover_vectors
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import top

__all__ = ["SampleGraph", "gcnal", "train_graph_network"]


@strategy("gcnal")
def gcnal(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    variant: Literal["core", "uncertain"] = "core",
    subset: Annotated[int, Range(ge=1)] = 10_000,
    hidden: Annotated[int, Range(ge=1)] = 128,
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.3,
    steps: Annotated[int, Range(ge=1)] = 200,
    lr: Annotated[float, Range(gt=0)] = 1e-3,
    weight_decay: Annotated[float, Range(ge=0)] = 5e-4,
    unlabeled_weight: Annotated[float, Range(ge=0)] = 1.2,
    margin: Annotated[float, Range(ge=0, le=1)] = 0.1,
    quirks: Quirks = "faithful",
) -> Selection:
    """Train the graph network on the client's own samples, then choose.

    Parameters
    ----------
    context : QueryContext
        Needs labels, and one model's outputs on both splits.
    budget : int
        Samples to choose.
    model : str
        Whose normalized features are the nodes and give the edges.
    variant : {"core", "uncertain"}
        `core` is CoreGCN, k-center on the hidden layer from the labeled samples;
        `uncertain` is UncertainGCN, the samples whose score s is nearest to `margin`.
    subset : int
        Most unlabeled nodes, drawn at random; never fewer than the budget.
    hidden : int
        Units of the hidden layer.
    dropout : float
        Dropout behind the hidden layer.
    steps : int
        Training steps of the graph network, by Adam.
    lr : float
        Adam's learning rate.
    weight_decay : float
        Adam's weight decay.
    unlabeled_weight : float
        Weight λ of the unlabeled samples in the loss, −mean_L log s − λ mean_U
        log(1 − s) (equation 5).
    margin : float
        The score s that UncertainGCN looks for.
    quirks : {"faithful", "corrected"}
        What k-center goes by: `faithful` the hidden layer and, as one more column that
        outweighs it, the score before the sigmoid, as the published codes do;
        `corrected` the hidden layer alone.

    Notes
    -----
    The adjacency matrix is never built: see `SampleGraph`. The published code divides
    by column sums unguarded; here a sum of about 0 counts as 1.

    Raises
    ------
    ValueError
        If every label is missing.
    """
    context.require_labels("GCNAL")
    choice = choose_model(context, model)
    pool = context.outputs(choice.model, "pool").features
    labeled = context.outputs(choice.model, "labeled").features
    order = torch.randperm(len(pool), generator=context.generator)
    drawn = order[: max(subset, budget)].sort().values.to(pool.device)
    graph = SampleGraph(normalize(torch.cat([pool[drawn], labeled])))
    nodes, logits = train_graph_network(
        graph,
        len(drawn),
        hidden=hidden,
        dropout=dropout,
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        unlabeled_weight=unlabeled_weight,
        generator=context.generator,
    )
    if variant == "uncertain":
        nearness = -(logits[: len(drawn)].sigmoid() - margin).abs()
        picks = top(nearness, budget)
        return Selection(drawn[picks], scores=nearness[picks], notes=choice.notes)
    if quirks == "faithful":
        nodes = torch.cat([nodes, logits[:, None]], dim=1)
    picks = cover_vectors(nodes[: len(drawn)], budget, anchors=nodes[len(drawn) :])
    return Selection(drawn[picks], notes=choice.notes)


@dataclass(frozen=True)
class SampleGraph:
    """The graph of samples, A = (X Xᵀ − I) diag(1 / column sums) + I (section 3.3).

    Parameters
    ----------
    nodes : Tensor, shape (n, D)
        X, unit rows.
    """

    nodes: Tensor

    def column_sums(self) -> Tensor:
        """Return the column sums of X Xᵀ − I, shape (n,); what is about 0 is 1."""
        sums = self.nodes @ self.nodes.sum(dim=0) - 1
        return sums.where(sums.abs() > 1e-6, 1)

    def propagate(self, values: Tensor, column_sums: Tensor) -> Tensor:
        """Return A · values, shape (n, k), in O(n D k): A is never built."""
        scaled = values / column_sums[:, None]
        result: Tensor = self.nodes @ (self.nodes.T @ scaled) - scaled + values
        return result


def train_graph_network(
    graph: SampleGraph,
    num_unlabeled: int,
    *,
    hidden: int,
    dropout: float,
    steps: int,
    lr: float,
    weight_decay: float,
    unlabeled_weight: float,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Train F = ReLU(A X W₁ + b₁), s = σ(A F W₂ + b₂) to be 1 on labeled nodes.

    Parameters
    ----------
    graph : SampleGraph
        n nodes, the unlabeled ones first.
    num_unlabeled : int
        How many these are.
    hidden, dropout, steps, lr, weight_decay, unlabeled_weight
        See `gcnal`.
    generator : torch.Generator
        On the CPU; draws the initialization and the dropout.

    Returns
    -------
    nodes : Tensor, shape (n, hidden)
        F after training, without dropout.
    logits : Tensor, shape (n,)
        What the sigmoid makes s of.
    """
    device, sums = graph.nodes.device, graph.column_sums()

    def uniform(*shape: int) -> Tensor:
        bound = shape[-1] ** -0.5
        drawn = torch.rand(shape, generator=generator) * 2 * bound - bound
        parameter: Tensor = drawn.to(device).requires_grad_()
        return parameter

    inner, inner_bias = uniform(graph.nodes.shape[1], hidden), uniform(hidden)
    outer, outer_bias = uniform(hidden, 1), uniform(1)

    smoothed = graph.propagate(graph.nodes, sums)  # A X, the same in every step

    def embed() -> Tensor:
        result: Tensor = (smoothed @ inner + inner_bias).relu()
        return result

    def logits(nodes: Tensor) -> Tensor:
        return (graph.propagate(nodes @ outer, sums) + outer_bias)[:, 0]

    parameters = [inner, inner_bias, outer, outer_bias]
    step = _adam(parameters, lr=lr, weight_decay=weight_decay)
    with torch.enable_grad():
        for _ in range(steps):
            nodes = embed()
            mask = torch.rand(nodes.shape, generator=generator) >= dropout
            z = logits(nodes * mask.to(device) / (1 - dropout))
            loss = -logsigmoid(z[num_unlabeled:]).mean()
            loss -= unlabeled_weight * logsigmoid(-z[:num_unlabeled]).mean()
            step(torch.autograd.grad(loss, parameters))
    with torch.no_grad():
        nodes = embed()
        return nodes, logits(nodes)


def _adam(
    parameters: list[Tensor], *, lr: float, weight_decay: float
) -> Callable[[Sequence[Tensor]], None]:
    """Return a step of `torch.optim.Adam`, without its import of seconds."""
    means = [torch.zeros_like(parameter) for parameter in parameters]
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    steps = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(gradients: Sequence[Tensor]) -> None:
        adam(
            parameters,
            list(gradients),
            means,
            squares,
            [],
            steps,
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=weight_decay,
            amsgrad=False,
            maximize=False,
        )

    return step
