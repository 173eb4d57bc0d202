"""One client of a campaign: its shard, its ledger, its device."""

import logging
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairfal_flwr.client.annotators import Oracle
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.networks import Holdings, Networks
from fairfal_flwr.client.querying import PoolQuery, QueryTimes
from fairfal_flwr.client.training import train_round
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
)
from fairfal_flwr.paths import state_root
from fairfal_flwr.query.model_choice import balanced_counts, balanced_mean, imbalance
from fairfal_flwr.randomness import torch_generator

__all__ = ["Participant", "find_participant"]

log = logging.getLogger("fairfal.client")
CODE = Path(__file__).parents[1]


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
        self.networks = Networks(config.model.name, self.shard)

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
        model = self.networks.with_weights(request.weights)
        data = self.networks.labeled_images(self.holdings())
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
        model = self.networks.with_weights(request.weights)
        probs = self.networks.outputs(model, self.shard.test_images).probs
        likelihood = probs.gather(1, labels[:, None]).clamp(min=1e-12)
        return EvaluateReply(
            num_examples=len(labels),
            loss=float(-likelihood.log().mean()),
            accuracy=float((probs.argmax(dim=1) == labels).float().mean()),
        )

    def imbalance(self, request: ImbalanceRequest) -> ImbalanceReply:
        """Return γ_k of the global model (METHOD §3); 1 without labels."""
        started = perf_counter()
        holdings = self.holdings()
        labels = holdings.labels
        if not len(labels):
            return ImbalanceReply(imbalance=1.0, seconds=perf_counter() - started)
        model = self.networks.with_weights(request.weights)
        images = self.shard.images[holdings.labeled]
        probs = self.networks.outputs(model, images).probs
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
        budget = self._budget()
        times = QueryTimes()
        if not self.ledger.knows_cycle(request.cycle):
            holdings = self.holdings()
            query = PoolQuery(self.config, self.index, self.networks, holdings, request)
            selection, times = query.run(budget), query.times
            pool_ids = self.shard.sample_ids[holdings.pool.cpu().numpy()]
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
            local_training_seconds=times.local_training,
            outputs_seconds=times.outputs,
            selection_seconds=times.selection,
        )

    def holdings(self) -> Holdings:
        """Return what is labeled and what may be asked for, on the device."""
        sample_ids, labels = self.ledger.labeled()
        asked = np.isin(self.shard.sample_ids, self.ledger.requested())
        positions = np.searchsorted(self.shard.sample_ids, sample_ids)
        return Holdings(
            pool=torch.from_numpy(np.flatnonzero(~asked)).to(self.device),
            labeled=torch.from_numpy(positions).to(self.device),
            labels=torch.from_numpy(labels).to(self.device),
        )

    def _budget(self) -> int:
        """Return how many samples to label in a cycle, at least 1."""
        return max(1, int(self.config.campaign.budget * len(self.shard) + 1e-9))

    def _introduce(self) -> None:
        count, channels, height, width = self.shard.images.shape
        threads = f", {torch.get_num_threads()} thread(s)" * (self.device.type == "cpu")
        log.info(
            "client %d: device %s%s; %d images %dx%dx%d, fingerprint %s; ledger %s; "
            "code in %s",
            self.index,
            self.device,
            threads,
            count,
            channels,
            height,
            width,
            self.shard.fingerprint,
            self.ledger.path,
            CODE,
        )
        if self.config.device == "auto" and hidden_gpu():
            log.warning(
                "client %d: this machine has a GPU but the client was given none; "
                'run with --federation-config "client-resources-num-gpus=0.5 ..."',
                self.index,
            )


def _as_numpy(tensor: Tensor | None) -> NDArray[np.int64] | None:
    return None if tensor is None else tensor.cpu().numpy()
