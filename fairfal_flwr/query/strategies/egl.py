"""Expected gradient length: how much would a label teach the last layer.

Multiple-Instance Active Learning
    Burr Settles, Mark Craven and Soumya Ray. NeurIPS 2007.
"""

from torch import Tensor

from fairfal_flwr.query.context import Outputs, QueryContext, Selection
from fairfal_flwr.query.model_choice import ModelOption, choose_model
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.selection import take_top

__all__ = ["egl", "expected_gradient_lengths"]


@strategy("egl")
def egl(
    context: QueryContext, budget: int, *, model: ModelOption = "global"
) -> Selection:
    """Take the samples of the largest expected gradient of the last layer's weight."""
    choice = choose_model(context, model)
    scores = expected_gradient_lengths(context.outputs(choice.model, "pool"))
    return take_top(scores, budget, notes=choice.notes)


def expected_gradient_lengths(outputs: Outputs) -> Tensor:
    """Return Σ_c p_c ‖∂CE(f(x), c) / ∂W‖_F for the last layer's weight W.

    The gradient is (p − onehot(c)) ⊗ h, so its norm is ‖h‖ · ‖p − onehot(c)‖ and
    ‖p − onehot(c)‖² = ‖p‖² − 2 p_c + 1: no gradient is computed.

    Parameters
    ----------
    outputs : Outputs
        Of N samples.

    Returns
    -------
    Tensor, shape (N,)
        At least 0.
    """
    probs = outputs.probs
    squared = probs.square().sum(dim=1, keepdim=True) - 2 * probs + 1
    lengths = (probs * squared.clamp(min=0).sqrt()).sum(dim=1)
    result: Tensor = lengths * outputs.features.norm(dim=1)
    return result
