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
from fairfal_flwr.client.corrections import ControlVariate, proximal_pull
from fairfal_flwr.client.last_round import (
    LastRound,
    LastRoundFile,
    PredictionChanges,
    follows_changes,
    is_kept,
)
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.networks import Holdings, Networks
from fairfal_flwr.client.objectives import make_objective
from fairfal_flwr.client.querying import PoolQuery, QueryTimes
from fairfal_flwr.client.training import steps_per_epoch, train_round
from fairfal_flwr.client.variates import VariateFile
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import ShardCache, load_shard
from fairfal_flwr.device import hidden_gpu, keep_freed_memory, resolve_device
from fairfal_flwr.errors import UserError
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
from fairfal_flwr.models import Classifier, measure
from fairfal_flwr.paths import state_root
from fairfal_flwr.query.model_choice import balanced_counts, balanced_mean, imbalance
from fairfal_flwr.randomness import torch_generator

__all__ = ["Participant", "find_participant"]

log = logging.getLogger("fairfal.client")
CODE = Path(__file__).parents[1]


@cache
def find_participant(
    config: RunConfig, index: int, campaign: str, data_path: str = ""
) -> "Participant":
    """Return this process's `Participant`, made on first use."""
    return Participant(config, index, campaign, data_path)


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
    data_path : str
        The node's own images, if it has any; see `ImageSpec`.

    Raises
    ------
    UserError
        If the images, the device or the ledger cannot be used.
    """

    def __init__(
        self, config: RunConfig, index: int, campaign: str, data_path: str = ""
    ) -> None:
        self.config = config
        self.index = index
        self.device = resolve_device(config.device)
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        cache = ShardCache(
            state_root(config.state_dir) / "shards",
            config.data.cache_mb,
            config.data.memory_mb,
        )
        shard, labels = load_shard(
            config.image_spec(data_path), config.partition_spec(), index, cache=cache
        )
        if labels is None:
            raise UserError(
                f"The images of client {index} have no labels, and only the oracle "
                "answers so far, which needs them; sort them into one folder per class."
            )
        path = state_root(config.state_dir) / campaign / f"client-{index:04d}.sqlite"
        self.ledger = Ledger(path, shard.fingerprint)
        self.variates = VariateFile(path.with_suffix(".variate.safetensors"))
        self.last_round = LastRoundFile(path.with_suffix(".last-round.safetensors"))
        self.annotator = Oracle(shard.sample_ids, labels)
        self.shard = shard.to(self.device)
        self.networks = Networks(config.model, self.shard)

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
        holdings = self.holdings()
        data = self.networks.labeled_images(holdings)
        changes = self._follow(model, holdings, request)
        variate = self._control_variate(model, request)
        pull = proximal_pull(model, request.proximal_mu)
        settings = self.config.train
        loss, steps = 0.0, 0
        if len(data):
            steps = settings.epochs * steps_per_epoch(
                len(data), settings.batch_size, model.smallest_batch
            )
            loss = train_round(
                model,
                data,
                settings,
                lr=request.lr,
                generator=torch_generator(
                    self.config.seed, "train", request.cycle, request.round, self.index
                ),
                objective=make_objective(
                    self.config,
                    self.index,
                    self.networks,
                    holdings,
                    request,
                    self.last_round,
                ),
                correct_gradients=variate.correct if variate else pull,
                after_epoch=changes.look,
            )
        self._keep(request, model, changes)
        return TrainReply(
            num_examples=len(data),
            loss=loss,
            seconds=perf_counter() - started,
            weights=model.state_dict(),
            variate=self._advance(variate, request, steps) if variate else None,
        )

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Test the global model on this client's test shard."""
        labels, num_classes = self.shard.test_labels, self.shard.num_classes
        if not len(labels):
            none = [0] * num_classes
            return EvaluateReply(0, 0.0, 0.0, class_counts=none, class_hits=none)
        model = self.networks.with_weights(request.weights)
        probs = self.networks.test_outputs(model).probs
        found = measure(probs, labels)
        return EvaluateReply(
            num_examples=len(labels),
            loss=found.loss,
            accuracy=found.accuracy,
            class_counts=found.counts.tolist(),
            class_hits=found.hits.tolist(),
        )

    def imbalance(self, request: ImbalanceRequest) -> ImbalanceReply:
        """Return γ_k of the global model (METHOD §3); 1 without labels."""
        started = perf_counter()
        holdings = self.holdings()
        labels = holdings.labels
        if not len(labels):
            return ImbalanceReply(imbalance=1.0, seconds=perf_counter() - started)
        model = self.networks.with_weights(request.weights)
        probs = self.networks.outputs(model, holdings.labeled).probs
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
            holdings = self._shown(self.holdings(), request.cycle)
            query = PoolQuery(
                self.config,
                self.index,
                self.networks,
                holdings,
                request,
                last=self.last_round.read(),
                dormant=self._is_dormant(holdings),
            )
            selection, times = query.run(budget), query.times
            pool_ids = self.networks.sample_ids(holdings.pool).numpy()
            self.ledger.record_selection(
                request.cycle,
                request.strategy,
                pool_ids[selection.positions.cpu().numpy()],
                suggestions=_as_numpy(selection.suggestions),
                notes=selection.notes,
                dormant=self._dormant_after(pool_ids, selection.dormant),
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

    def _shown(self, holdings: Holdings, cycle: int) -> Holdings:
        """Return what the query of a cycle looks at: at most `query.max-pool`.

        What an earlier query put to sleep is shown where nothing else is left.
        """
        most = self.config.query.max_pool
        if not most:
            return holdings
        return holdings.sampled(
            max(most, self._budget()),
            torch_generator(self.config.seed, "max-pool", cycle, self.index),
            last=self._is_dormant(holdings),
        )

    def _is_dormant(self, holdings: Holdings) -> Tensor | None:
        """Tell for the pool what an earlier query put to sleep; None if nothing."""
        dormant = self.ledger.dormant()
        if not len(dormant):
            return None
        pool_ids = self.networks.sample_ids(holdings.pool).numpy()
        return torch.from_numpy(np.isin(pool_ids, dormant)).to(self.device)

    def _dormant_after(
        self, pool_ids: NDArray[np.int64], dormant: Tensor | None
    ) -> NDArray[np.int64] | None:
        """Return the samples asleep after a query; those it was not shown sleep on."""
        if dormant is None:
            return None
        unseen = np.setdiff1d(self.ledger.dormant(), pool_ids)
        return np.union1d(unseen, pool_ids[dormant.cpu().numpy()])

    def _follow(
        self, model: Classifier, holdings: Holdings, request: TrainRequest
    ) -> PredictionChanges:
        """Get ready to follow what the next query is shown, if it asks for that."""
        wanted = is_kept(self.config, request.round) and follows_changes(self.config)
        shown = self._shown(holdings, request.cycle + 1) if wanted else None
        positions = holdings.pool[:0] if shown is None else shown.pool

        def predict() -> Tensor:
            return self.networks.outputs(model, positions).probs.argmax(dim=1)

        return PredictionChanges(predict, self.networks.sample_ids(positions))

    def _keep(
        self, request: TrainRequest, model: Classifier, changes: PredictionChanges
    ) -> None:
        """Keep the round, if a query or the next round will ask for it."""
        if is_kept(self.config, request.round):
            last = LastRound(
                cycle=request.cycle,
                round=request.round,
                weights=model.state_dict(),
                sample_ids=changes.sample_ids,
                changes=changes.counts,
            )
            self.last_round.write(last)

    def _control_variate(
        self, model: Classifier, request: TrainRequest
    ) -> ControlVariate | None:
        """Return SCAFFOLD's correction, if the server sent its variate."""
        if request.variate is None:
            return None
        own = self.variates.read(request.accepted)
        if request.accepted and not own:
            log.warning(
                "client %d: no control variate of round %s in %s; it starts at zero",
                self.index,
                request.accepted,
                self.variates.path,
            )
        return ControlVariate(model, request.variate, own)

    def _advance(
        self, variate: ControlVariate, request: TrainRequest, steps: int
    ) -> Weights:
        """Store the variate after training and return its change."""
        if not steps:
            return {name: torch.zeros_like(own) for name, own in variate.own.items()}
        momentum = self.config.train.momentum
        new = variate.updated(lr=request.lr, steps=steps, momentum=momentum)
        self.variates.write(
            used=(request.accepted, variate.own), new=(str(request.server_round), new)
        )
        return {name: new[name] - own for name, own in variate.own.items()}

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
