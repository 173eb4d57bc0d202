"""BALD: samples on which the network disagrees with itself under dropout.

Deep Bayesian Active Learning with Image Data
    Yarin Gal, Riashat Islam and Zoubin Ghahramani. ICML 2017, arXiv 1703.02910.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Generator, Tensor, nn

from fairfal_flwr.query.context import Network, QueryContext, Selection
from fairfal_flwr.query.measures import entropies
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.networks import ELEMENTWISE, dropout_layers, evaluating
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import take_top

__all__ = ["bald", "mutual_information"]

BATCH_SIZE = 512


@strategy("bald", needs_dropout=True)
def bald(
    context: QueryContext,
    budget: int,
    *,
    model: ModelOption = "global",
    num_passes: Annotated[int, Range(ge=1)] = 20,
) -> Selection:
    """Take the samples of the largest mutual information of label and weights.

    Parameters
    ----------
    context : QueryContext
        Needs one model's network, with dropout in it, and the pool's inputs.
    budget : int
        Samples to choose.
    model : str
        The network.
    num_passes : int
        Forward passes, each with other units dropped (T).

    Raises
    ------
    ValueError
        If the network or the inputs are missing, or the network has no dropout.
    """
    choice = choose_model(context, model)
    network, inputs = context.network(choice.model), context.inputs("pool")
    scores = mutual_information(
        network, inputs, num_passes=num_passes, generator=context.generator
    )
    return take_top(scores, budget, notes=choice.notes)


def mutual_information(
    network: Network, inputs: Tensor, *, num_passes: int, generator: Generator
) -> Tensor:
    """Return H(p̄) − (1/T) Σ_t H(p_t), p̄ = (1/T) Σ_t p_t (equation 2).

    Parameters
    ----------
    network : Network
        Dropout layers drop; everything else is in evaluation mode.
    inputs : Tensor, shape (N, ...), float32
        As the network takes them.
    num_passes : int
        T.
    generator : torch.Generator
        On the CPU; draws what is dropped.

    Returns
    -------
    Tensor, shape (N,)
        In nats, at least 0 up to rounding.

    Raises
    ------
    ValueError
        If the network has no dropout layer with p > 0.
    """
    scores = []
    with evaluating(network), dropping(network, generator), torch.no_grad():
        for batch in torch.split(inputs, BATCH_SIZE):
            passes = (network.features_and_logits(batch) for _ in range(num_passes))
            probs = [logits.softmax(dim=1) for _, logits in passes]
            mean = torch.stack(probs).mean(dim=0)
            within = torch.stack([entropies(p) for p in probs]).mean(dim=0)
            scores.append(entropies(mean) - within)
    return torch.cat(scores)


@contextmanager
def dropping(network: Network, generator: Generator) -> Iterator[None]:
    """Let the dropout layers drop although they are in evaluation mode.

    Hooks draw the masks from the generator, so that neither torch's global random
    state nor the device matters; they are gone afterwards.
    """
    layers = dropout_layers(network)
    if not layers:
        raise ValueError(
            "BALD needs a network with dropout: this one has no layer to drop from."
        )
    handles = [layer.register_forward_hook(_drop_with(generator)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _drop_with(generator: Generator) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def drop(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        assert isinstance(layer.p, float)
        shape = output.shape
        if not isinstance(layer, ELEMENTWISE):
            shape = shape[:2] + (1,) * (output.ndim - 2)
        kept = torch.rand(shape, generator=generator) >= layer.p
        return output * kept.to(output) / max(1 - layer.p, 1e-12)

    return drop
