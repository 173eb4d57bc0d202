"""One client of a campaign: its shard, its ledger, its device."""

import logging
from functools import cache
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairfal_flwr.client.annotators import Oracle
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.training import LabeledImages, train_local_model, train_round
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_shard
from fairfal_flwr.device import hidden_gpu, keep_freed_memory, resolve_device
from fairfal_flwr.messages import (
    EvaluateReply,
    EvaluateRequest,
    ImbalanceReply,
    ImbalanceRequest,
    SelectReply,
    SelectRequest,
    StatusReply,
    StatusRequest,
    TrainReply,
    TrainRequest,
    Weights,
)
from fairfal_flwr.models import Classifier, as_input, build_model, predict
from fairfal_flwr.paths import state_root
from fairfal_flwr.query import Outputs, QueryContext, Selection, select
from fairfal_flwr.query.context import Model, Split
from fairfal_flwr.query.model_choice import balanced_counts, balanced_mean, imbalance
from fairfal_flwr.randomness import derive_seed, torch_generator

__all__ = ["Participant", "find_participant"]

log = logging.getLogger("fairfal.client")


@cache
def find_participant(config: RunConfig, index: int, campaign: str) -> "Participant":
    """Return this process's `Participant`, made on first use."""
    return Participant(config, index, campaign)


class Participant:
    """Answers the server's requests from one client's data.

    Parameters
    ----------
    config : RunConfig
        The run's configuration.
    index : int
        The client's index among the clients, from 0.
    campaign : str
        Names the folder of the ledger.

    Raises
    ------
    UserError
        If the images, the device or the ledger cannot be used.
    """

    def __init__(self, config: RunConfig, index: int, campaign: str) -> None:
        self.config = config
        self.index = index
        self.device = resolve_device(config.device)
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        shard, labels = load_shard(config, index)
        path = state_root(config.state_dir) / campaign / f"client-{index:04d}.sqlite"
        self.ledger = Ledger(path, shard.fingerprint)
        self.annotator = Oracle(shard.sample_ids, labels)
        self.shard = shard.to(self.device)

    def status(self, _request: StatusRequest) -> StatusReply:
        """Say who this is and how much there is; the first message of a campaign."""
        self._introduce()
        labeled, _ = self.ledger.labeled()
        return StatusReply(
            client=self.index,
            num_samples=len(self.shard),
            num_labeled=len(labeled),
            on_gpu=int(self.device.type == "cuda"),
        )

    def train(self, request: TrainRequest) -> TrainReply:
        """Train the global model on the labels; without labels, return it as it is."""
        started = perf_counter()
        model = self._with_weights(request.weights)
        data = self._labeled_images()
        loss = 0.0
        if len(data):
            loss = train_round(
                model,
                data,
                self.config.train,
                lr=request.lr,
                generator=torch_generator(
                    self.config.seed, "train", request.cycle, request.round, self.index
                ),
            )
        return TrainReply(
            num_examples=len(data),
            loss=loss,
            seconds=perf_counter() - started,
            weights=model.state_dict(),
        )

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Test the global model on this client's test shard."""
        labels = self.shard.test_labels
        if not len(labels):
            return EvaluateReply(num_examples=0, loss=0.0, accuracy=0.0)
        probs = self._outputs(
            self._with_weights(request.weights), self.shard.test_images
        ).probs
        likelihood = probs.gather(1, labels[:, None]).clamp(min=1e-12)
        return EvaluateReply(
            num_examples=len(labels),
            loss=float(-likelihood.log().mean()),
            accuracy=float((probs.argmax(dim=1) == labels).float().mean()),
        )

    def imbalance(self, request: ImbalanceRequest) -> ImbalanceReply:
        """Return γ_k of the global model (METHOD §3); 1 without labels."""
        started = perf_counter()
        positions, labels = self._labels()
        if not len(labels):
            return ImbalanceReply(imbalance=1.0, seconds=perf_counter() - started)
        model = self._with_weights(request.weights)
        probs = self._outputs(model, self.shard.images[positions]).probs
        counts = balanced_counts(
            labels, self.shard.num_classes, seed=self.config.fairfal.balance_seed
        )
        gamma = imbalance(balanced_mean(probs, counts), labels)
        return ImbalanceReply(imbalance=gamma, seconds=perf_counter() - started)

    def select(self, request: SelectRequest) -> SelectReply:
        """Choose samples, ask for their labels, and report counts.

        A cycle that the ledger knows keeps its selection; what is unanswered is asked
        again, so a request may be repeated at any time.
        """
        query = _Query(self, request)
        budget = self._budget()
        if not self.ledger.knows_cycle(request.cycle):
            selection = query.run(budget)
            pool_ids = self.shard.sample_ids[query.pool.cpu().numpy()]
            self.ledger.record_selection(
                request.cycle,
                request.strategy,
                pool_ids[selection.positions.cpu().numpy()],
                suggestions=_as_numpy(selection.suggestions),
                notes=selection.notes,
            )
        waiting = self.ledger.unanswered()
        answers = self.annotator.answer(waiting)
        self.ledger.record_answers(waiting, answers, self.annotator.name)
        labeled, _ = self.ledger.labeled()
        return SelectReply(
            budget=budget,
            num_selected=len(self.ledger.selection(request.cycle)),
            num_labeled=len(labeled),
            num_unlabeled=len(self.shard) - len(labeled),
            global_query=int(self.ledger.notes(request.cycle).get("global-query", -1)),
            local_training_seconds=query.local_training_seconds,
            outputs_seconds=query.outputs_seconds,
            selection_seconds=query.selection_seconds,
        )

    def pool_positions(self) -> Tensor:
        """Return the positions never asked for, ascending, on the device."""
        asked = np.isin(self.shard.sample_ids, self.ledger.requested())
        return torch.from_numpy(np.flatnonzero(~asked)).to(self.device)

    def local_model(self, cycle: int) -> Classifier:
        """Train a model on this client's labels alone (METHOD §3).

        Its initialization is the same for all clients in a cycle.
        """
        seed = self.config.seed
        model = self._build_model(derive_seed(seed, "local-model", cycle))
        train_local_model(
            model,
            self._labeled_images(),
            self.config.train,
            self.config.local,
            generator=torch_generator(seed, "train-local", cycle, self.index),
        )
        return model

    def _budget(self) -> int:
        """Return how many samples to label in a cycle, at least 1."""
        return max(1, int(self.config.campaign.budget * len(self.shard) + 1e-9))

    def _labels(self) -> tuple[Tensor, Tensor]:
        """Return the labeled positions in the shard, ascending, and their classes."""
        sample_ids, labels = self.ledger.labeled()
        positions = np.searchsorted(self.shard.sample_ids, sample_ids)
        return (
            torch.from_numpy(positions).to(self.device),
            torch.from_numpy(labels).to(self.device),
        )

    def _labeled_images(self) -> LabeledImages:
        positions, labels = self._labels()
        images = self.shard.images[positions]
        return LabeledImages(as_input(images, self.shard.mean, self.shard.std), labels)

    def _build_model(self, seed: int) -> Classifier:
        channels, height, width = self.shard.images.shape[1:]
        model = build_model(
            self.config.model.name,
            in_channels=channels,
            image_size=(height, width),
            num_classes=self.shard.num_classes,
            seed=seed,
        )
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _with_weights(self, weights: Weights) -> Classifier:
        model = self._build_model(seed=0)
        model.load_state_dict(weights)
        return model

    def _outputs(self, model: Classifier, images: Tensor) -> Outputs:
        return Outputs(*predict(model, images, self.shard.mean, self.shard.std))

    def _introduce(self) -> None:
        count, channels, height, width = self.shard.images.shape
        threads = f", {torch.get_num_threads()} thread(s)" * (self.device.type == "cpu")
        log.info(
            "client %d: device %s%s; %d images %dx%dx%d, fingerprint %s; ledger %s",
            self.index,
            self.device,
            threads,
            count,
            channels,
            height,
            width,
            self.shard.fingerprint,
            self.ledger.path,
        )
        if self.config.device == "auto" and hidden_gpu():
            log.warning(
                "client %d: this machine has a GPU but the client was given none; "
                'run with --federation-config "client-resources-num-gpus=0.5 ..."',
                self.index,
            )


class _Query:
    """One selection: its models, their outputs, the time they take."""

    def __init__(self, participant: Participant, request: SelectRequest) -> None:
        self.participant = participant
        self.request = request
        self.pool = participant.pool_positions()
        self.labeled, self.labels = participant._labels()
        self.local_training_seconds = 0.0
        self.outputs_seconds = 0.0
        self.selection_seconds = 0.0
        self._models: dict[Model, Classifier] = {}

    def run(self, budget: int) -> Selection:
        """Let the strategy choose; without any label there is nothing to go by."""
        config, request = self.participant.config, self.request
        name = request.strategy if len(self.labels) else "random"
        context = QueryContext(
            self._compute_outputs,
            labels=self.labels,
            pool_size=len(self.pool),
            num_classes=self.participant.shard.num_classes,
            global_imbalance=request.global_imbalance,
            generator=torch_generator(
                config.seed, "query", request.cycle, self.participant.index
            ),
        )
        options = config.strategy_options() if name == config.query.strategy else {}
        started = perf_counter()
        selection = select(name, context, budget, **options)
        elapsed = perf_counter() - started
        self.selection_seconds = (
            elapsed - self.outputs_seconds - self.local_training_seconds
        )
        return selection

    def _compute_outputs(self, model: Model, split: Split) -> Outputs:
        network = self._model(model)
        started = perf_counter()
        positions = self.pool if split == "pool" else self.labeled
        outputs = self.participant._outputs(
            network, self.participant.shard.images[positions]
        )
        self.outputs_seconds += perf_counter() - started
        return outputs

    def _model(self, name: Model) -> Classifier:
        if name not in self._models:
            started = perf_counter()
            self._models[name] = self._make(name)
            self.local_training_seconds += perf_counter() - started
        return self._models[name]

    def _make(self, name: Model) -> Classifier:
        if name == "local":
            return self.participant.local_model(self.request.cycle)
        assert self.request.weights is not None, "the strategy declared no global model"
        return self.participant._with_weights(self.request.weights)


def _as_numpy(tensor: Tensor | None) -> NDArray[np.int64] | None:
    return None if tensor is None else tensor.cpu().numpy()
