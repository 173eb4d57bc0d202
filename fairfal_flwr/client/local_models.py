"""How the models of a query come to be: from the server, from labels, from the past."""

import logging

from fairfal_flwr.client.distillation import distillation
from fairfal_flwr.client.last_round import LastRound
from fairfal_flwr.client.networks import Networks
from fairfal_flwr.client.training import (
    LabeledImages,
    train_distilled_model,
    train_local_model,
)
from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import Weights
from fairfal_flwr.models import Classifier
from fairfal_flwr.randomness import derive_seed, torch_generator

__all__ = ["LocalModels"]

log = logging.getLogger("fairfal.client")


class LocalModels:
    """Makes the models that one client's query may ask for.

    Parameters
    ----------
    config : RunConfig
        How they are trained.
    index : int
        The client's index.
    cycle : int
        Of the query; with seed and index it determines all randomness.
    networks : Networks
        Builds them.
    data : LabeledImages
        The client's labels.
    """

    def __init__(
        self,
        config: RunConfig,
        index: int,
        cycle: int,
        networks: Networks,
        data: LabeledImages,
    ) -> None:
        self.config = config
        self.index = index
        self.cycle = cycle
        self.networks = networks
        self.data = data

    def local(self) -> Classifier:
        """Train a network on the labels alone (method §3).

        Its initialization is the same for all clients in a cycle.
        """
        seed = derive_seed(self.config.seed, "local-model", self.cycle)
        return self._trained(self.networks.fresh(seed), "train-local")

    def finetuned(self, weights: Weights) -> Classifier:
        """Train the global model on the labels, in the same way."""
        return self._trained(self.networks.with_weights(weights), "fine-tune")

    def distilled(self, teacher: Classifier) -> Classifier:
        """Train a network on the labels and the global model's view of them (IFAL).

        It starts where the local model does.
        """
        settings, seed = self.config.distill, self.config.seed
        model = self.networks.fresh(derive_seed(seed, "local-model", self.cycle))
        objective = distillation(
            teacher, temperature=settings.temperature, weight=settings.weight
        )
        train_distilled_model(
            model,
            self.data,
            self.config.train,
            settings,
            objective=objective,
            generator=torch_generator(seed, "distill", self.cycle, self.index),
        )
        return model

    def local_last(self, last: LastRound | None, weights: Weights) -> Classifier:
        """Return the client's own model after its last round of training.

        Parameters
        ----------
        last : LastRound or None
            What the client kept. It is an old one if the client was not chosen since,
            and None if it never was: then the global model stands in.
        weights : Weights
            The global model's.
        """
        if last is None:
            log.warning(
                "client %d: it has not trained yet; `local-last` is the global model",
                self.index,
            )
            return self.networks.with_weights(weights)
        if last.cycle != self.cycle - 1:
            log.warning(
                "client %d: it last trained in cycle %d; `local-last` is from there",
                self.index,
                last.cycle,
            )
        return self.networks.with_weights(last.weights)

    def _trained(self, model: Classifier, purpose: str) -> Classifier:
        seed = self.config.seed
        train_local_model(
            model,
            self.data,
            self.config.train,
            self.config.local,
            generator=torch_generator(seed, purpose, self.cycle, self.index),
        )
        return model
