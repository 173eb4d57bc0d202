"""Query with the global model after fine-tuning it on the client's labels.

A baseline of LoGo, "Re-thinking Federated Active Learning based on Inter-class
Diversity"
    SangMook Kim, Sangmin Bae, Hwanjun Song and Se-Young Yun. CVPR 2023, arXiv
    2303.12317.
"""

from fairfal_flwr.query.context import QueryContext, Selection
from fairfal_flwr.query.options import Flavor
from fairfal_flwr.query.registry import strategy
from fairfal_flwr.query.strategies.badge import badge
from fairfal_flwr.query.strategies.uncertainty import entropy

__all__ = ["finetuning"]


@strategy("finetuning", models=("finetuned",))
def finetuning(
    context: QueryContext,
    budget: int,
    *,
    flavor: Flavor = "entropy",
) -> Selection:
    """Choose by the fine-tuned model.

    Parameters
    ----------
    context : QueryContext
        Needs the outputs of "finetuned" on the pool.
    budget : int
        Samples to choose.
    flavor : {"entropy", "badge"}
        The strategy that the model is put to.
    """
    choose = entropy if flavor == "entropy" else badge
    return choose(context, budget, model="finetuned")
