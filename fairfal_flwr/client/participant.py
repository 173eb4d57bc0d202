"""One client of a campaign: its shard, its ledger, its device."""

import logging
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairfal_flwr.client.annotators import Annotator, Oracle, People, mistaken
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
from fairfal_flwr.data import Shard, ShardCache, load_shard
from fairfal_flwr.device import hidden_gpu, resolve_device
from fairfal_flwr.errors import UserError
from fairfal_flwr.malloc import keep_freed_memory
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
from fairfal_flwr.randomness import numpy_generator, torch_generator

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
        path = ledger_file(config.state_dir, campaign, index)
        annotator = self._annotator(path, campaign, shard, labels)
        self.ledger = Ledger(path, shard.identity)
        self.ledger.check_asked(shard.sample_ids)
        self.annotator = annotator
        self._images = shard

    # Where a process starts for each message, one that asks for counts needs no GPU.
    @cached_property
    def shard(self) -> Shard:
        """The images, on the device."""
        return self._images.to(self.device)

    @cached_property
    def networks(self) -> Networks:
        """The networks that run over them."""
        return Networks(self.config.model, self.shard)

    @cached_property
    def pool(self) -> Pool:
        """What of them is labeled, and what may be asked for."""
        return Pool(self.config, self.index, self.shard, self.ledger)

    def status(self, request: StatusRequest) -> StatusReply:
        """Say who this is and how much there is.

        The first message of a campaign asks for it, and each that asks how far the
        answers to a cycle's questions are.
        """
        if request.cycle is None:
            self._introduce()
        else:
            self.annotator.answer(self.ledger)
            self.annotator.hear(request)
        return StatusReply(
            client=self.index,
            on_gpu=int(self.device.type == "cuda"),
            num_samples=self.ledger.num_images,
            **self._answers(request.cycle or self.ledger.last_cycle() + 1),
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

        A cycle that the ledger knows keeps its selection, so a request may be repeated
        at any time. What people have not answered is reported and waited for.
        """
        cycle, times = request.cycle, QueryTimes()
        if not self.ledger.knows_cycle(cycle):
            self.ledger.close(cycle - 1)
            times = self._query(request)
        else:
            self.annotator.prepare(self.ledger.requested())
        self.annotator.answer(self.ledger)
        answers = self._answers(cycle)
        age = datetime.now(UTC) - self.ledger.asked_at(cycle)
        return SelectReply(
            budget=self.pool.wanted(cycle),
            num_selected=len(self.ledger.selection(cycle)),
            num_unlabeled=self.pool.num_images - answers["num_labeled"],
            asked_seconds=max(0.0, age.total_seconds()),
            global_query=int(self.ledger.notes(cycle).get("global-query", -1)),
            local_training_seconds=times.local_training,
            outputs_seconds=times.outputs,
            selection_seconds=times.selection,
            **answers,
        )

    def _query(self, request: SelectRequest) -> QueryTimes:
        """Let the strategy choose and write its choice into the ledger."""
        last = LastRounds(self.ledger.path).before_cycle(request.cycle)
        query = PoolQuery(
            self.config, self.index, self.networks, self.pool, request, last
        )
        wanted = self.pool.wanted(request.cycle)
        selection = query.run(min(wanted, self.pool.left))
        chosen = self.pool.chosen(query.holdings, selection)
        asked = np.concatenate([self.ledger.requested(), chosen])
        self.annotator.prepare(asked)  # nobody sees a question without its image
        self.pool.record(request.cycle, query.strategy, query.holdings, selection)
        return query.times

    def _annotator(
        self, ledger: Path, campaign: str, shard: Shard, labels: Tensor | None
    ) -> Annotator:
        """Return who answers; `shard` is on the CPU."""
        rules = self.config.annotation
        if rules.by == "person":
            return People(ledger, campaign, self.index, shard, rules.votes)
        if labels is None:
            raise UserError(
                f"The images of client {self.index} have no labels, which the oracle "
                'answers with; set annotation.by="person", or sort them into one '
                "folder per class."
            )
        generator = numpy_generator(self.config.seed, "oracle-noise", self.index)
        said = mistaken(
            labels.numpy(), shard.num_classes, rules.oracle_noise, generator
        )
        return Oracle(shard.sample_ids, said, rules.oracle_delay)

    def _answers(self, cycle: int) -> dict[str, Any]:
        """Return what became of all questions as of a cycle.

        Once it is closed no answer reaches it, so nothing of it is open.
        """
        counts = self.ledger.counts(cycle)
        is_closed = self.ledger.closed_cycles() >= cycle
        return {
            "num_labeled": counts.labeled,
            "num_open": 0 if is_closed else counts.waiting,
            "num_set_aside": counts.set_aside,
            "ledger": self.ledger.head.numbers,
        }

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
        # Here a model that does not fit the images is found, before anything else.
        count, channels, height, width = self.networks.shard.images.shape
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
