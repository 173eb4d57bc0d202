"""The campaign: annotate, train, evaluate, record, cycle by cycle (METHOD §1)."""

import logging
import math
from collections.abc import Callable, Iterable
from statistics import mean
from time import monotonic, perf_counter, sleep
from types import SimpleNamespace
from typing import TypeVar, cast

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fairfal_flwr.config import RunConfig, TrainConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import (
    EvaluateReply,
    EvaluateRequest,
    ImbalanceReply,
    ImbalanceRequest,
    Reply,
    Request,
    SelectReply,
    SelectRequest,
    StatusReply,
    StatusRequest,
    TrainRequest,
    Weights,
    unpack_weights,
)
from fairfal_flwr.query.registry import resolve
from fairfal_flwr.randomness import derive_seed, numpy_generator
from fairfal_flwr.server.evaluator import Evaluation, Evaluator
from fairfal_flwr.server.privacy import (
    adds_noise,
    expect_replies,
    keep_variances_positive,
    privacy_report,
    weigh_equally,
)
from fairfal_flwr.server.recorder import CycleRow, Recorder, RoundRow
from fairfal_flwr.server.replies import check_evaluate_reply, check_train_reply
from fairfal_flwr.server.strategies import make_strategy, quorum, restart

__all__ = ["Campaign", "learning_rate"]

log = logging.getLogger("fairfal.server")

ReplyT = TypeVar("ReplyT", bound=Reply)
Check = Callable[[Message], None]
POLL_SECONDS = 0.1


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
        self.grid = grid
        self.evaluator = Evaluator(config)
        self.statistics = self.evaluator.statistics()
        self.strategy = make_strategy(config, self.statistics)
        self.recorder = Recorder(config)
        self.nodes: dict[int, int] = {}  # client index -> Flower's node id, ascending
        self.samples: dict[int, int] = {}  # Flower's node id -> images
        self.labels: dict[int, int] = {}  # Flower's node id -> labels
        self.mean_imbalance: float | None = None
        self.weights: Weights = {}
        self.last_aggregate: tuple[int, int] | None = None  # cycle and round
        self.strategy_rounds = 0  # since the strategy started

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
        except Exception:
            self.recorder.stop(self.weights, self.last_aggregate)
            raise
        self.recorder.finish()

    def meet_clients(self) -> None:
        """Learn which node is which client, and that each can read its images."""
        nodes = self._connected_nodes()
        request = StatusRequest(campaign=self.recorder.name)
        messages = self._messages(request, nodes)
        statuses = {
            reply.metadata.src_node_id: StatusReply.from_content(reply.content)
            for reply in self._exchange(messages)
        }
        self.nodes = dict(
            sorted((status.client, node) for node, status in statuses.items())
        )
        if len(self.nodes) != len(nodes):
            raise UserError(
                "Two SuperNodes are the same client; give each its own `partition-id`."
            )
        self.samples = {node: status.num_samples for node, status in statuses.items()}
        self.recorder.announce(
            self.num_samples,
            num_gpus=sum(status.on_gpu for status in statuses.values()),
            rare_classes=sorted(self.evaluator.rare_classes.tolist()),
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
        self.recorder.record_cycle(row, self.weights)

    def annotate(self, cycle: int) -> int | None:
        """Have every client choose and label samples; the first cycle is random.

        Returns
        -------
        int or None
            Clients whose global model judged uncertainty; None where the strategy
            makes no such choice.
        """
        name = "random" if cycle == 1 else self.config.query.strategy
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
        replies = self._ask(request, SelectReply)
        self.recorder.record_queries(cycle, name, replies, imbalances)
        self.labels = {
            self.nodes[client]: reply.num_labeled for client, reply in replies.items()
        }
        if not self.num_labels:
            raise UserError("No client has a labeled image; there is nothing to train.")
        choices = [r.global_query for r in replies.values() if r.global_query >= 0]
        return sum(choices) if choices else None

    def measure_imbalance(self) -> dict[int, float]:
        """Return γ_k by client; their mean is kept for the whole campaign."""
        request = ImbalanceRequest(campaign=self.recorder.name, weights=self.weights)
        replies = self._ask(request, ImbalanceReply)
        return {client: reply.imbalance for client, reply in replies.items()}

    def run_round(self, cycle: int, round_number: int) -> Evaluation | None:
        """Train on the clients and aggregate; evaluate where it is due."""
        started = perf_counter()
        campaign = self.config.campaign
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
        able = [node for node in self.nodes.values() if self.labels[node]]
        chosen = self._choose(
            "train", able, config.federation.fraction_train, cycle, round_number
        )
        expect_replies(self.strategy, len(chosen))
        messages = self.strategy.configure_train(
            self.strategy_rounds, arrays, scalars, _grid_of(chosen)
        )
        replies = self._train_replies(
            messages, arrays, f"Cycle {cycle}, round {round_number}"
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
        self.recorder.privacy = privacy_report(self.strategy, config.privacy)
        return len(replies), float(cast(float, metrics["loss"]))

    def _train_replies(
        self, messages: Iterable[Message], sent: ArrayRecord, what: str
    ) -> list[Message]:
        """Return the replies to use, in the order of the clients.

        Clients that did not answer, or not well, are asked again until the quorum is
        there; training again from the same request gives the same reply.

        Raises
        ------
        UserError
            If the quorum is not there after `federation.round-retries` repetitions.
        """
        federation = self.config.federation
        waiting = {message.metadata.dst_node_id: message for message in messages}
        asked, needed = len(waiting), quorum(federation, len(waiting))
        good: dict[int, Message] = {}
        problems: list[str] = []
        for repetition in range(federation.round_retries + 1):
            replies, problems = self._send(waiting.values(), self._train_check(sent))
            good |= replies
            waiting = {n: _again(m) for n, m in waiting.items() if n not in good}
            for problem in problems:
                log.warning("left out of this round: %s", problem)
            if len(good) >= needed:
                return [good[node] for node in self.nodes.values() if node in good]
            if not waiting:
                problems = ["the other clients have no label"]
                break
            if repetition < federation.round_retries:
                log.warning(
                    "%s has %d of the %d replies it needs; asking again",
                    what,
                    len(good),
                    needed,
                )
        raise UserError(
            f"{what}: {len(good)} of {asked} clients answered well, but "
            f"`federation.quorum` = {federation.quorum:g} with {federation.strategy} "
            f"needs {needed}, also after {federation.round_retries} repetitions "
            f"(`federation.round-retries`); {'; '.join(problems)}."
        )

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
        nodes = list(self.nodes.values())
        chosen = self._choose("evaluate", nodes, fraction, cycle, round_number)
        messages = self.strategy.configure_evaluate(
            self.strategy_rounds, arrays, scalars, _grid_of(chosen)
        )
        num_classes = self.evaluator.test_set.num_classes
        good, problems = self._send(
            messages, lambda reply: check_evaluate_reply(reply.content, num_classes)
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

    def _ask(self, request: Request, reply_type: type[ReplyT]) -> dict[int, ReplyT]:
        """Ask every client; return the replies by client, ascending."""
        messages = self._messages(request, self.nodes.values())
        replies = self._exchange(messages)
        return {
            client: reply_type.from_content(reply.content)
            for client, reply in zip(self.nodes, replies, strict=True)
        }

    @staticmethod
    def _messages(request: Request, nodes: Iterable[int]) -> list[Message]:
        content = request.to_content()
        kind = request.message_type
        return [Message(content, dst_node_id=node, message_type=kind) for node in nodes]

    def _exchange(self, messages: Iterable[Message]) -> list[Message]:
        """Send messages that all must answer well.

        Raises
        ------
        UserError
            If one did not.
        """
        good, problems = self._send(messages)
        if problems:
            raise UserError("; ".join(problems))
        return list(good.values())

    def _send(
        self, messages: Iterable[Message], check: Check | None = None
    ) -> tuple[dict[int, Message], list[str]]:
        """Send messages; return the good replies by node, and what is wrong otherwise.

        Both are in the order of the clients, which makes sums, and so the run,
        independent of who answered first.
        """
        messages = list(messages)
        order = {node: client for client, node in self.nodes.items()}
        nodes = [message.metadata.dst_node_id for message in messages]
        timeout = self.config.federation.round_timeout
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        good: dict[int, Message] = {}
        problems = []
        for node in sorted(nodes, key=lambda node: order.get(node, node)):
            who = f"client {order[node]}" if node in order else f"SuperNode {node}"
            if (reply := answered.get(node)) is None:
                problems.append(f"{who} did not answer within {timeout:g} s")
            elif problem := _problem(reply, check):
                problems.append(f"{who}: {problem}")
            else:
                good[node] = reply
        return good, problems

    def _connected_nodes(self) -> list[int]:
        """Wait for the run's SuperNodes; anything else is a mistake."""
        wanted = self.config.num_clients
        deadline = monotonic() + self.config.federation.connect_timeout
        while len(nodes := list(self.grid.get_node_ids())) < wanted:
            if monotonic() > deadline:
                break
            sleep(POLL_SECONDS)
        if len(nodes) != wanted:
            raise UserError(
                f"`num-clients` is {wanted} but {len(nodes)} SuperNodes are connected; "
                'in simulation run: flwr run . --federation-config "num-supernodes='
                f'{wanted} client-resources-num-cpus=1" (or set num-clients).'
            )
        return nodes


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


def _again(message: Message) -> Message:
    """Return the same request as a new message."""
    metadata = message.metadata
    return Message(
        message.content,
        dst_node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
    )


def _problem(reply: Message, check: Check | None) -> str | None:
    """Return in one line what is wrong with a reply, None if nothing is."""
    if reply.has_error():
        return _first_line(reply.error.reason)
    try:
        if check is not None:
            check(reply)
    except ValueError as error:
        return str(error)
    return None


def _first_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0] if lines else "failed without a reason"
