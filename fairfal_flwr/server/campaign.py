"""The campaign: annotate, train, evaluate, record, cycle by cycle (METHOD §1)."""

import logging
import math
from collections.abc import Iterable
from statistics import mean
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fairfal_flwr.config import RunConfig, TrainConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import (
    EvaluateReply,
    EvaluateRequest,
    ImbalanceReply,
    ImbalanceRequest,
    SelectReply,
    SelectRequest,
    StatusRequest,
    TrainRequest,
    Weights,
    unpack_weights,
)
from fairfal_flwr.query.registry import resolve
from fairfal_flwr.randomness import derive_seed, numpy_generator
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.rows import CycleRow, RoundRow
from fairfal_flwr.server.clients import Check, Clients
from fairfal_flwr.server.evaluator import Evaluation, Evaluator
from fairfal_flwr.server.privacy import (
    adds_noise,
    expect_replies,
    keep_variances_positive,
    privacy_report,
    weigh_equally,
)
from fairfal_flwr.server.recorder import Recorder
from fairfal_flwr.server.replies import check_evaluate_reply, check_train_reply
from fairfal_flwr.server.strategies import make_strategy, restart

__all__ = ["Campaign", "learning_rate"]

log = logging.getLogger("fairfal.server")


class Campaign:
    """One run: annotation and federated training, cycle by cycle.

    Parameters
    ----------
    config : RunConfig
        The run's configuration.
    grid : Grid
        Flower's way to the nodes.

    Raises
    ------
    UserError
        If the test images, the device or the output folder cannot be used, or the
        aggregation strategy cannot do what it is told. No client has been bothered by
        then.
    """

    def __init__(self, config: RunConfig, grid: Grid) -> None:
        self.config = config
        self.clients = Clients(grid, config.federation)
        self.evaluator = Evaluator(config)
        self.statistics = self.evaluator.statistics()
        self.strategy = make_strategy(config, self.statistics)
        self.recorder = Recorder(config)
        self.samples: dict[int, int] = {}  # Flower's node id -> images
        self.labels: dict[int, int] = {}  # Flower's node id -> labels
        self.mean_imbalance: float | None = None
        self.weights: Weights = {}
        self.last_aggregate: tuple[int, int] | None = None  # cycle and round
        self.strategy_rounds = 0  # since the strategy started
        self.privacy: dict[str, Any] | None = None  # what is spent so far

    @property
    def num_samples(self) -> int:
        """Images of all clients together."""
        return sum(self.samples.values())

    @property
    def num_labels(self) -> int:
        """Labels of all clients together."""
        return sum(self.labels.values())

    def run(self) -> None:
        """Run every cycle; if that fails, leave the last aggregate behind.

        Raises
        ------
        UserError
            If the clients are not the ones configured, one cannot do its part, or too
            few answer.
        """
        try:
            self.meet_clients()
            for cycle in range(1, self.config.campaign.num_cycles + 1):
                self.run_cycle(cycle)
        except Exception as error:
            reason = str(error) or repr(error)
            self.recorder.stop(self.weights, self.last_aggregate, self.privacy, reason)
            raise
        self.recorder.finish(self.privacy)

    def meet_clients(self) -> None:
        """Learn which node is which client, and that each can read its images."""
        request = StatusRequest(campaign=self.recorder.name)
        statuses = self.clients.meet(request, self.config.num_clients)
        self.samples = {node: status.num_samples for node, status in statuses.items()}
        self.recorder.announce(
            self.num_samples,
            num_gpus=sum(status.on_gpu for status in statuses.values()),
            rare=sorted(self.evaluator.rare_classes.tolist()),
        )

    def run_cycle(self, cycle: int) -> None:
        """Annotate, train R rounds, evaluate, record."""
        started = perf_counter()
        global_queries = self.annotate(cycle)
        annotated = perf_counter()
        if cycle == 1 or self.config.campaign.reset == "random":
            self._start_afresh(cycle)
        for round_number in range(1, self.config.campaign.num_rounds + 1):
            evaluation = self.run_round(cycle, round_number)
        assert evaluation is not None, "the last round of a cycle is evaluated"
        row = CycleRow(
            cycle=cycle,
            labels=self.num_labels,
            label_fraction=self.num_labels / self.num_samples,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            rare_recall=evaluation.rare_recall,
            recalls=evaluation.recalls,
            mean_imbalance=self.mean_imbalance,
            global_queries=global_queries,
            query_seconds=annotated - started,
            train_seconds=perf_counter() - annotated,
        )
        self.recorder.record_cycle(row, self.weights, self.privacy)

    def annotate(self, cycle: int) -> int | None:
        """Have every client choose and label samples; the first cycle is random.

        Returns
        -------
        int or None
            Clients whose global model judged uncertainty; None where the strategy
            makes no such choice.
        """
        name = "random" if cycle == 1 else self.config.query.strategy
        self.recorder.event(EventKind.QUERY_STARTED, cycle=cycle, strategy=name)
        options = self.config.strategy_options(name)
        needs = resolve(name).requirements(options)
        imbalances = {}
        if needs.needs_imbalance and self.mean_imbalance is None:
            imbalances = self.measure_imbalance()
            self.mean_imbalance = mean(imbalances.values())
            log.info("mean imbalance of the global model: %.3f", self.mean_imbalance)
        request = SelectRequest(
            campaign=self.recorder.name,
            cycle=cycle,
            strategy=name,
            global_imbalance=self.mean_imbalance if needs.needs_imbalance else None,
            weights=self.weights if needs.models else None,
        )
        replies = self.clients.ask(request, SelectReply)
        self.recorder.record_queries(cycle, name, replies, imbalances)
        self.labels = {
            self.clients.nodes[client]: reply.num_labeled
            for client, reply in replies.items()
        }
        if not self.num_labels:
            raise UserError("No client has a labeled image; there is nothing to train.")
        choices = [r.global_query for r in replies.values() if r.global_query >= 0]
        return sum(choices) if choices else None

    def measure_imbalance(self) -> dict[int, float]:
        """Return γ_k by client; their mean is kept for the whole campaign."""
        request = ImbalanceRequest(campaign=self.recorder.name, weights=self.weights)
        replies = self.clients.ask(request, ImbalanceReply)
        return {client: reply.imbalance for client, reply in replies.items()}

    def run_round(self, cycle: int, round_number: int) -> Evaluation | None:
        """Train on the clients and aggregate; evaluate where it is due."""
        started = perf_counter()
        campaign = self.config.campaign
        self.recorder.event(EventKind.ROUND_STARTED, cycle=cycle, round=round_number)
        clients, loss = self._train(cycle, round_number)
        is_last = round_number == campaign.num_rounds
        due = is_last or round_number % campaign.evaluate_every == 0
        evaluation = self.evaluator.evaluate(self.weights) if due else None
        on_clients = self._evaluate_on_clients(cycle, round_number) if due else None
        if due and evaluation is None:  # a server without test images
            evaluation = self.evaluator.from_clients(on_clients)
        row = RoundRow(
            cycle=cycle,
            round=round_number,
            labels=self.num_labels,
            clients=clients,
            loss=loss,
            accuracy=evaluation.accuracy if evaluation else None,
            rare_recall=evaluation.rare_recall if evaluation else None,
            client_accuracy=on_clients[0] if on_clients else None,
            client_recalls=on_clients[1] if on_clients else None,
            seconds=perf_counter() - started,
        )
        self.recorder.record_round(row)
        return evaluation

    def _start_afresh(self, cycle: int) -> None:
        """Initialize the global model and the strategy's memory of the old one."""
        seed = derive_seed(self.config.seed, "global-model", cycle)
        self.weights = self.evaluator.new_weights(seed)
        self.last_aggregate = None
        self.strategy = restart(self.strategy, self.config, self.statistics)
        self.strategy_rounds = 0

    def _train(self, cycle: int, round_number: int) -> tuple[int, float]:
        """Replace the weights by the aggregate; return the clients and mean loss."""
        config = self.config
        self.strategy_rounds += 1
        arrays, scalars = TrainRequest(
            campaign=self.recorder.name,
            cycle=cycle,
            round=round_number,
            lr=learning_rate(
                config.train, round_number - 1, config.campaign.num_rounds
            ),
            weights=self.weights,
        ).records()
        able = [node for node in self.clients.nodes.values() if self.labels[node]]
        chosen = self._choose(
            "train", able, config.federation.fraction_train, cycle, round_number
        )
        expect_replies(self.strategy, len(chosen))
        messages = self.strategy.configure_train(
            self.strategy_rounds, arrays, scalars, _grid_of(chosen)
        )
        replies = self.clients.ask_quorum(
            messages,
            self._train_check(arrays),
            f"Cycle {cycle}, round {round_number}",
        )
        expect_replies(self.strategy, len(replies))
        if adds_noise(config.privacy):
            weigh_equally(replies)
        aggregate, metrics = self.strategy.aggregate_train(
            self.strategy_rounds, replies
        )
        assert aggregate is not None
        assert metrics is not None
        self.weights = self._accept(aggregate)
        self.last_aggregate = cycle, round_number
        self.privacy = privacy_report(self.strategy, config.privacy)
        return len(replies), float(cast(float, metrics["loss"]))

    def _train_check(self, sent: ArrayRecord) -> Check:
        has_variate = self.config.federation.strategy == "scaffold"
        trained = [name for name in sent if name not in self.statistics]

        def check(reply: Message) -> None:
            check_train_reply(
                reply.content,
                sent,
                self.samples[reply.metadata.src_node_id],
                variate=trained if has_variate else (),
                norm_bit=self.config.privacy.mechanism == "client-adaptive",
            )

        return check

    def _accept(self, aggregate: ArrayRecord) -> Weights:
        """Return the aggregate with the types that the weights have.

        Raises
        ------
        UserError
            If it is not finite: the strategy's steps were too large.
        """
        new = {
            name: value.to(self.weights[name].dtype)
            for name, value in unpack_weights(aggregate).items()
        }
        if self.config.privacy.mechanism != "none":
            new = keep_variances_positive(new, self.weights)
        for name, value in new.items():
            if not value.isfinite().all():
                raise UserError(
                    f"The aggregate of {self.config.federation.strategy} holds NaN or "
                    f"Inf in {name}; lower the learning rates under `federation` or "
                    "`train.lr`."
                )
        return self.weights | new

    def _evaluate_on_clients(
        self, cycle: int, round_number: int
    ) -> tuple[float, tuple[float, ...]] | None:
        """Return accuracy and recall per class over the clients' test shards.

        None where that is not asked for, or no client that answered has test images.
        """
        fraction = self.config.federation.fraction_evaluate
        if not fraction:
            return None
        arrays, scalars = EvaluateRequest(
            campaign=self.recorder.name, weights=self.weights
        ).records()
        nodes = list(self.clients.nodes.values())
        chosen = self._choose("evaluate", nodes, fraction, cycle, round_number)
        messages = self.strategy.configure_evaluate(
            self.strategy_rounds, arrays, scalars, _grid_of(chosen)
        )
        num_classes = self.evaluator.test_set.num_classes
        good, problems = self.clients.send(
            list(messages),
            lambda reply: check_evaluate_reply(reply.content, num_classes),
        )
        for problem in problems:
            log.warning("left out of the clients' evaluation: %s", problem)
        return pooled_recalls(
            [EvaluateReply.from_content(reply.content) for reply in good.values()]
        )

    def _choose(
        self,
        purpose: str,
        nodes: list[int],
        fraction: float,
        cycle: int,
        round_number: int,
    ) -> list[int]:
        """Return the nodes that take part in a round, by our own seeded draw."""
        count = max(1, round(fraction * len(nodes)))
        generator = numpy_generator(
            self.config.seed, f"{purpose}-clients", cycle, round_number
        )
        rows = sorted(generator.permutation(len(nodes))[:count].tolist())
        return [nodes[row] for row in rows]


def learning_rate(train: TrainConfig, round_index: int, num_rounds: int) -> float:
    """Return the learning rate of a round: lr, then lr · decay (METHOD §2).

    Parameters
    ----------
    train : TrainConfig
        `lr`, `lr_decay` and `lr_decay_at`.
    round_index : int
        Counted from 0; the decay applies once it exceeds ⌊lr_decay_at · num_rounds⌋.
    num_rounds : int
        Rounds of the training phase.

    Examples
    --------
    >>> rates = [learning_rate(TrainConfig(), index, 100) for index in (75, 76)]
    >>> [round(rate, 6) for rate in rates]
    [0.01, 0.001]
    """
    late = round_index > math.floor(train.lr_decay_at * num_rounds)
    return train.lr * (train.lr_decay if late else 1.0)


def pooled_recalls(
    replies: Iterable[EvaluateReply],
) -> tuple[float, tuple[float, ...]] | None:
    """Return accuracy and recall per class over all clients' test images together.

    Returns
    -------
    tuple of float and tuple of float, or None
        The recall of a class without test images is nan; None without any image.

    Examples
    --------
    >>> pooled_recalls([
    ...     EvaluateReply(3, 0.1, 2 / 3, [2, 1], [2, 0]),
    ...     EvaluateReply(1, 0.1, 1.0, [0, 1], [0, 1]),
    ... ])
    (0.75, (1.0, 0.5))
    """
    pairs = [(reply.class_counts, reply.class_hits) for reply in replies]
    counts = [sum(of_class) for of_class in zip(*(p[0] for p in pairs), strict=True)]
    hits = [sum(of_class) for of_class in zip(*(p[1] for p in pairs), strict=True)]
    if not sum(counts):
        return None
    recalls = tuple(h / n if n else math.nan for h, n in zip(hits, counts, strict=True))
    return sum(hits) / sum(counts), recalls


def _grid_of(nodes: list[int]) -> Grid:
    """Return a grid that shows a strategy only some nodes.

    Flower's strategies sample with Python's global generator, all nodes they see.
    """
    return cast(Grid, SimpleNamespace(get_node_ids=lambda: nodes))
