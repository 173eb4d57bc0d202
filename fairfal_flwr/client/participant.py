"""One client of a campaign: its shard, its ledger, its device."""

import logging
from functools import cache
from time import perf_counter
from typing import Any

import torch

from fairfal_flwr.client.annotators import Oracle
from fairfal_flwr.client.last_round import LastRounds
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.networks import Networks
from fairfal_flwr.client.objectives import objective_of
from fairfal_flwr.client.plug import Round
from fairfal_flwr.client.plugs import plugs_of
from fairfal_flwr.client.pool import Pool
from fairfal_flwr.client.querying import PoolQuery, QueryTimes
from fairfal_flwr.client.training import train_round
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
)
from fairfal_flwr.models import measure
from fairfal_flwr.paths import CODE, ledger_file, state_root
from fairfal_flwr.query.model_choice import balanced_counts, balanced_mean, imbalance
from fairfal_flwr.randomness import torch_generator

__all__ = ["Participant", "find_participant"]

log = logging.getLogger("fairfal.client")


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
        path = ledger_file(config.state_dir, campaign, index)
        self.ledger = Ledger(path, shard.identity)
        self.ledger.check_asked(shard.sample_ids)
        self.annotator = Oracle(shard.sample_ids, labels)
        self.shard = shard.to(self.device)
        self.networks = Networks(config.model, self.shard)
        self.pool = Pool(config, index, self.shard, self.ledger)

    def status(self, _request: StatusRequest) -> StatusReply:
        """Say who this is and how much there is; the first message of a campaign."""
        self._introduce()
        return StatusReply(
            client=self.index,
            num_samples=self.pool.num_images,
            num_labeled=len(self.ledger.answered()),
            on_gpu=int(self.device.type == "cuda"),
        )

    def train(self, request: TrainRequest) -> TrainReply:
        """Train the global model on the cycle's labels; without any, return it.

        The first round of a cycle closes it: later labels count from the next on.
        """
        started = perf_counter()
        self.ledger.close(request.cycle)
        this = self._round(request)
        data = self.networks.labeled_images(this.holdings)
        model = self.networks.with_weights(request.weights)
        plugs = plugs_of(this, model)
        trained = train_round(
            model,
            data,
            self.config.train,
            lr=request.lr,
            generator=torch_generator(
                self.config.seed, "train", request.cycle, request.round, self.index
            ),
            objective=objective_of(self.config).make(this),
            listeners=plugs,
        )
        extras: dict[str, Any] = {}
        for plug in plugs:
            extras |= plug.finish(trained)
        return TrainReply(
            num_examples=len(data),
            loss=trained.loss,
            seconds=perf_counter() - started,
            weights=model.state_dict(),
            **extras,
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
        """Return γ_k of the global model (method §3); 1 without labels."""
        started = perf_counter()
        self.ledger.close(request.cycle - 1)
        holdings = self.pool.as_of(request.cycle - 1)
        gamma = 1.0
        if len(holdings.labels):
            model = self.networks.with_weights(request.weights)
            probs = self.networks.outputs(model, holdings.labeled).probs
            counts = balanced_counts(
                holdings.labels,
                self.shard.num_classes,
                seed=self.config.adaptive.balance_seed,
            )
            gamma = imbalance(balanced_mean(probs, counts), holdings.labels)
        return ImbalanceReply(imbalance=gamma, seconds=perf_counter() - started)

    def select(self, request: SelectRequest) -> SelectReply:
        """Choose samples, ask for their labels, and report counts.

        A cycle that the ledger knows keeps its selection; what is unanswered is asked
        again, so a request may be repeated at any time.
        """
        times = QueryTimes()
        if not self.ledger.knows_cycle(request.cycle):
            self.ledger.close(request.cycle - 1)
            times = self._query(request)
        waiting = self.ledger.unanswered()
        answers = self.annotator.answer(waiting)
        self.ledger.record_answers(waiting, answers, self.annotator.name)
        num_labeled = len(self.pool.as_of(request.cycle).labels)
        return SelectReply(
            budget=self.pool.budget,
            num_selected=len(self.ledger.selection(request.cycle)),
            num_labeled=num_labeled,
            num_unlabeled=self.pool.num_images - num_labeled,
            global_query=int(self.ledger.notes(request.cycle).get("global-query", -1)),
            local_training_seconds=times.local_training,
            outputs_seconds=times.outputs,
            selection_seconds=times.selection,
            ledger=self.ledger.head.numbers,
        )

    def _query(self, request: SelectRequest) -> QueryTimes:
        """Let the strategy choose and write its choice into the ledger."""
        last = LastRounds(self.ledger.path).before_cycle(request.cycle)
        query = PoolQuery(
            self.config, self.index, self.networks, self.pool, request, last
        )
        selection = query.run(min(self.pool.budget, self.pool.left))
        self.pool.record(request.cycle, query.strategy, query.holdings, selection)
        return query.times

    def _round(self, request: TrainRequest) -> Round:
        return Round(
            config=self.config,
            index=self.index,
            request=request,
            networks=self.networks,
            pool=self.pool,
            holdings=self.pool.as_of(request.cycle),
            ledger=self.ledger.path,
        )

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
