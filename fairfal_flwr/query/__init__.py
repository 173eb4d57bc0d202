"""Query strategies: which samples of a pool are worth an annotator's time.

Pure PyTorch: tensors in, positions out. Nothing here knows Flower, files or the clock,
so a notebook can use it as it is::

    context = QueryContext.from_outputs({...}, labels=labels, num_classes=10)
    selection = select("fairfal", context, budget=85)
"""

# One line a strategy: importing its file registers it.
from fairfal_flwr.query import (
    alfa_mix,  # noqa: F401
    badge,  # noqa: F401
    bald,  # noqa: F401
    baseline,  # noqa: F401
    chase,  # noqa: F401
    coreset,  # noqa: F401
    deepfool,  # noqa: F401
    diverse_batch,  # noqa: F401
    egl,  # noqa: F401
    ensembles,  # noqa: F401
    fairfal,  # noqa: F401
    finetuning,  # noqa: F401
    gcnal,  # noqa: F401
    ifal,  # noqa: F401
    ksas,  # noqa: F401
    logo,  # noqa: F401
    typiclust,  # noqa: F401
    uncertainty,  # noqa: F401
)
from fairfal_flwr.query.context import Outputs, QueryContext, Selection
from fairfal_flwr.query.registry import select

__all__ = ["Outputs", "QueryContext", "Selection", "select"]
