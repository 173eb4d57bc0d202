"""One selection on one client: the models, their outputs, the strategy's choice.

Nothing here holds the annotator or any label of the pool, so neither can a strategy.
"""

from dataclasses import dataclass
from time import perf_counter

from fairfal_flwr.client.networks import Holdings, Networks
from fairfal_flwr.client.training import train_local_model
from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import SelectRequest
from fairfal_flwr.models import Classifier
from fairfal_flwr.query import Outputs, QueryContext, Selection, select
from fairfal_flwr.query.context import Model, Split
from fairfal_flwr.randomness import derive_seed, torch_generator

__all__ = ["PoolQuery", "QueryTimes"]


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
    holdings : Holdings
        The pool and the labels.
    request : SelectRequest
        Strategy, cycle, mean imbalance and the global model's weights.
    """

    def __init__(
        self,
        config: RunConfig,
        index: int,
        networks: Networks,
        holdings: Holdings,
        request: SelectRequest,
    ) -> None:
        self.config = config
        self.index = index
        self.networks = networks
        self.holdings = holdings
        self.request = request
        self.times = QueryTimes()
        self._models: dict[Model, Classifier] = {}

    def run(self, budget: int) -> Selection:
        """Choose `budget` positions of the pool, or what is left of it.

        Without any label there is nothing to go by, and the choice is random.
        """
        name = self.request.strategy if len(self.holdings.labels) else "random"
        chosen = name == self.config.query.strategy
        started = perf_counter()
        selection = select(
            name,
            self._context(),
            budget,
            **(self.config.strategy_options() if chosen else {}),
        )
        elapsed = perf_counter() - started
        self.times.selection = elapsed - self.times.outputs - self.times.local_training
        return selection

    def _context(self) -> QueryContext:
        return QueryContext(
            self._compute_outputs,
            labels=self.holdings.labels,
            pool_size=len(self.holdings.pool),
            num_classes=self.networks.shard.num_classes,
            global_imbalance=self.request.global_imbalance,
            generator=torch_generator(
                self.config.seed, "query", self.request.cycle, self.index
            ),
        )

    def _compute_outputs(self, model: Model, split: Split) -> Outputs:
        network = self._model(model)
        started = perf_counter()
        holdings = self.holdings
        positions = holdings.pool if split == "pool" else holdings.labeled
        images = self.networks.shard.images[positions]
        outputs = self.networks.outputs(network, images)
        self.times.outputs += perf_counter() - started
        return outputs

    def _model(self, name: Model) -> Classifier:
        if name not in self._models:
            started = perf_counter()
            self._models[name] = self._make(name)
            self.times.local_training += perf_counter() - started
        return self._models[name]

    def _make(self, name: Model) -> Classifier:
        if name == "local":
            return self._train_local_model()
        assert self.request.weights is not None, "the strategy declared no global model"
        return self.networks.with_weights(self.request.weights)

    def _train_local_model(self) -> Classifier:
        """Train a network on this client's labels alone (METHOD §3).

        Its initialization is the same for all clients in a cycle.
        """
        seed, cycle = self.config.seed, self.request.cycle
        model = self.networks.fresh(derive_seed(seed, "local-model", cycle))
        train_local_model(
            model,
            self.networks.labeled_images(self.holdings),
            self.config.train,
            self.config.local,
            generator=torch_generator(seed, "train-local", cycle, self.index),
        )
        return model
