"""Query strategies: which samples of a pool are worth an annotator's time.

Pure PyTorch: tensors in, positions out. Nothing here knows Flower, files or the clock,
so a notebook can use it as it is::

    context = QueryContext.from_outputs({...}, labels=labels, num_classes=10)
    selection = select("fairfal", context, budget=85)

The strategies are in `strategies/`; beside it are the parts that they are made of.
"""

from fairfal_flwr.query import strategies  # noqa: F401 (importing registers them)
from fairfal_flwr.query.adaptive_rule import AdaptiveRule
from fairfal_flwr.query.context import Outputs, QueryContext, Selection
from fairfal_flwr.query.registry import select

__all__ = ["AdaptiveRule", "Outputs", "QueryContext", "Selection", "select"]
