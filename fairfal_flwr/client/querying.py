"""One selection on one client: the models, their outputs, the strategy's choice.

Nothing here holds the annotator or any label of the pool, so neither can a strategy.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor

from fairfal_flwr.client.last_round import LastRound
from fairfal_flwr.client.local_models import LocalModels
from fairfal_flwr.client.networks import Networks
from fairfal_flwr.client.pool import Pool
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import SelectRequest
from fairfal_flwr.models import Classifier
from fairfal_flwr.paths import CODE
from fairfal_flwr.query import Outputs, QueryContext, Selection, select
from fairfal_flwr.query.adaptive_rule import AdaptiveRule
from fairfal_flwr.query.context import Model, Split
from fairfal_flwr.query.registry import resolve
from fairfal_flwr.randomness import torch_generator

__all__ = ["PoolQuery", "QueryTimes"]

log = logging.getLogger("fairfal.client")


@dataclass
class QueryTimes:
    """Seconds that the parts of a query took."""

    local_training: float = 0.0
    outputs: float = 0.0
    selection: float = 0.0


class PoolQuery:
    """Lets a strategy choose from one client's pool.

    Parameters
    ----------
    config : RunConfig
        Options of the strategy and of the local model.
    index : int
        The client's index; with seed and cycle it determines all randomness.
    networks : Networks
        Builds and runs the models.
    pool : Pool
        Shows what may be labeled, and remembers.
    request : SelectRequest
        Strategy, cycle, mean imbalance and the global model's weights.
    last : LastRound, optional
        The client's last round of training.

    Attributes
    ----------
    holdings : Holdings
        The labels, and what the strategy is shown of the pool.
    times : QueryTimes
        Where the time went.
    """

    def __init__(
        self,
        config: RunConfig,
        index: int,
        networks: Networks,
        pool: Pool,
        request: SelectRequest,
        last: LastRound | None = None,
    ) -> None:
        self.config = config
        self.index = index
        self.networks = networks
        self.request = request
        self.last = last
        self.holdings = pool.shown(request.cycle)
        self.times = QueryTimes()
        self._memory = self._remembered(pool)
        self._models: dict[Model, Classifier] = {}

    def run(self, budget: int) -> Selection:
        """Choose `budget` positions of the pool, or what is left of it.

        Raises
        ------
        UserError
            If the strategy cannot work with the run's model, options or labels.
        """
        name, options = self.strategy, self.config.strategy_options(self.strategy)
        started = perf_counter()
        selection = self._select(name, budget, options)
        elapsed = perf_counter() - started
        self.times.selection = elapsed - self.times.outputs - self.times.local_training
        return selection

    @property
    def strategy(self) -> str:
        """What chooses; without any label there is nothing to go by but chance."""
        return self.request.strategy if len(self.holdings.labels) else "random"

    def _select(self, name: str, budget: int, options: dict[str, Any]) -> Selection:
        try:
            return select(name, self._context(), budget, **options)
        except Exception as error:  # one of the user's own may fail in any way
            if not isinstance(error, ValueError) and ":" not in name:
                raise
            log.debug("the query strategy %s failed", name, exc_info=True)
            reason = " ".join(str(error).split())
            raise UserError(
                f"`query.strategy` is {name!r}; {type(error).__name__}: {reason}"
                f"{_place(error) if ':' in name else ''}"
            ) from error

    def _context(self) -> QueryContext:
        holdings, networks = self.holdings, self.networks

        def load_inputs(split: Split) -> Tensor:
            return networks.inputs(self._positions(split))

        return QueryContext(
            self._compute_outputs,
            labels=holdings.labels,
            pool_size=len(holdings.pool),
            num_classes=networks.shard.num_classes,
            global_imbalance=self.request.global_imbalance,
            generator=torch_generator(
                self.config.seed, "query", self.request.cycle, self.index
            ),
            load_network=self._model,
            load_inputs=load_inputs,
            memory=self._memory,
            adaptive=AdaptiveRule(
                threshold=self.config.adaptive.threshold,
                balance_seed=self.config.adaptive.balance_seed,
            ),
        )

    def _remembered(self, pool: Pool) -> dict[str, Tensor]:
        """Return what the strategy remembers of the samples it is shown, by name."""
        shown = self.holdings.pool
        memory = {}
        for name, watch in resolve(self.strategy).remembers.items():
            if watch is None:
                memory[name] = pool.memory(name, self.request.cycle, shown)
            elif self.last is None:
                memory[name] = torch.zeros_like(shown)
            else:
                values = self.last.memory(name, pool.sample_ids(shown))
                memory[name] = values.to(shown.device)
        return memory

    def _positions(self, split: Split) -> Tensor:
        return self.holdings.pool if split == "pool" else self.holdings.labeled

    def _compute_outputs(self, model: Model, split: Split) -> Outputs:
        network = self._model(model)
        started = perf_counter()
        outputs = self.networks.outputs(network, self._positions(split))
        self.times.outputs += perf_counter() - started
        return outputs

    def _model(self, name: Model) -> Classifier:
        if name not in self._models:
            teacher = self._model("global") if name == "distilled" else None
            started = perf_counter()
            model = self._make(name, teacher).eval()
            model.zero_grad()  # what training left behind is no business of a strategy
            self._models[name] = model
            self.times.local_training += perf_counter() - started
        return self._models[name]

    def _make(self, name: Model, teacher: Classifier | None) -> Classifier:
        data = self.networks.labeled_images(self.holdings)
        models = LocalModels(
            self.config, self.index, self.request.cycle, self.networks, data
        )
        if name == "local":
            return models.local()
        if teacher is not None:
            return models.distilled(teacher)
        weights = self.request.weights
        assert weights is not None, "the strategy declared no model but the local one"
        if name == "finetuned":
            return models.finetuned(weights)
        if name == "local-last":
            return models.local_last(self.last, weights)
        return self.networks.with_weights(weights)


def _place(error: Exception) -> str:
    """Return where in the user's own code an error arose, if it did there."""
    frames = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in walk_tb(error.__traceback__)
    ]
    own = [
        (file.name, line)
        for file, line in frames
        if CODE not in file.parents and "site-packages" not in file.parts
    ]
    return " ({}, line {})".format(*own[-1]) if own else ""
