"""The campaign: annotate, train, evaluate, record, cycle by cycle (METHOD §1)."""

import logging
import math
from collections.abc import Iterable
from statistics import mean
from time import monotonic, perf_counter, sleep
from types import SimpleNamespace
from typing import TypeVar, cast

from flwr.app import Message
from flwr.serverapp import Grid

from fairfal_flwr.config import RunConfig, TrainConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import (
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
from fairfal_flwr.query.registry import STRATEGIES
from fairfal_flwr.randomness import derive_seed, numpy_generator
from fairfal_flwr.server.evaluator import Evaluation, Evaluator
from fairfal_flwr.server.recorder import CycleRow, Recorder, RoundRow
from fairfal_flwr.server.strategies import make_strategy

__all__ = ["Campaign", "learning_rate"]

log = logging.getLogger("fairfal.server")

ReplyT = TypeVar("ReplyT", bound=Reply)
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
        If the test images, the device or the output folder cannot be used. No client
        has been bothered by then.
    """

    def __init__(self, config: RunConfig, grid: Grid) -> None:
        self.config = config
        self.grid = grid
        self.evaluator = Evaluator(config)
        self.strategy = make_strategy(config.federation)
        self.recorder = Recorder(config)
        self.nodes: dict[int, int] = {}  # client index -> Flower's node id, ascending
        self.num_samples = 0
        self.num_labels = 0
        self.mean_imbalance: float | None = None
        self.weights: Weights = {}

    def run(self) -> None:
        """Run every cycle.

        Raises
        ------
        UserError
            If the clients are not the ones configured, or one cannot do its part.
        """
        self.meet_clients()
        for cycle in range(1, self.config.campaign.num_cycles + 1):
            self.run_cycle(cycle)
        self.recorder.finish()

    def meet_clients(self) -> None:
        """Learn which node is which client, and that each can read its images."""
        nodes = self._connected_nodes()
        request = StatusRequest(campaign=self.recorder.name)
        messages = self._messages(request, nodes)
        statuses = {
            reply.metadata.src_node_id: StatusReply.from_content(reply.content)
            for reply in self._exchange(messages, all_must_answer=True)
        }
        self.nodes = dict(
            sorted((status.client, node) for node, status in statuses.items())
        )
        if len(self.nodes) != len(nodes):
            raise UserError(
                "Two SuperNodes are the same client; give each its own `partition-id`."
            )
        self.num_samples = sum(status.num_samples for status in statuses.values())
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
            seed = derive_seed(self.config.seed, "global-model", cycle)
            self.weights = self.evaluator.new_weights(seed)
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
        needs = STRATEGIES[name]
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
        self.num_labels = sum(reply.num_labeled for reply in replies.values())
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
        row = RoundRow(
            cycle=cycle,
            round=round_number,
            labels=self.num_labels,
            clients=clients,
            loss=loss,
            accuracy=evaluation.accuracy if evaluation else None,
            rare_recall=evaluation.rare_recall if evaluation else None,
            client_accuracy=self._client_accuracy(cycle, round_number) if due else None,
            seconds=perf_counter() - started,
        )
        self.recorder.record_round(row)
        return evaluation

    def _train(self, cycle: int, round_number: int) -> tuple[int, float]:
        """Replace the weights by the aggregate; return the clients and mean loss."""
        config = self.config
        lr = learning_rate(config.train, round_number - 1, config.campaign.num_rounds)
        arrays, scalars = TrainRequest(
            campaign=self.recorder.name,
            cycle=cycle,
            round=round_number,
            lr=lr,
            weights=self.weights,
        ).records()
        chosen = self._choose(
            "train", config.federation.fraction_train, cycle, round_number
        )
        messages = self.strategy.configure_train(round_number, arrays, scalars, chosen)
        replies = self._exchange(messages)
        aggregate, metrics = self.strategy.aggregate_train(round_number, replies)
        assert aggregate is not None
        assert metrics is not None
        self.weights = unpack_weights(aggregate)
        return len(replies), float(cast(float, metrics["loss"]))

    def _client_accuracy(self, cycle: int, round_number: int) -> float | None:
        """Return the accuracy over the clients' test shards, if that is asked for."""
        fraction = self.config.federation.fraction_evaluate
        if not fraction:
            return None
        arrays, scalars = EvaluateRequest(
            campaign=self.recorder.name, weights=self.weights
        ).records()
        chosen = self._choose("evaluate", fraction, cycle, round_number)
        messages = self.strategy.configure_evaluate(
            round_number, arrays, scalars, chosen
        )
        replies = self._exchange(messages)
        metrics = self.strategy.aggregate_evaluate(round_number, replies)
        assert metrics is not None
        return float(cast(float, metrics["accuracy"]))

    def _choose(
        self, purpose: str, fraction: float, cycle: int, round_number: int
    ) -> Grid:
        """Return a grid that shows a strategy only the round's clients.

        Flower's strategies sample with Python's global generator; ours is seeded.
        """
        nodes = list(self.nodes.values())
        count = max(1, round(fraction * len(nodes)))
        generator = numpy_generator(
            self.config.seed, f"{purpose}-clients", cycle, round_number
        )
        rows = sorted(generator.permutation(len(nodes))[:count].tolist())
        chosen = [nodes[row] for row in rows]
        return cast(Grid, SimpleNamespace(get_node_ids=lambda: chosen))

    def _ask(self, request: Request, reply_type: type[ReplyT]) -> dict[int, ReplyT]:
        """Ask every client; return the replies by client, ascending."""
        messages = self._messages(request, self.nodes.values())
        replies = self._exchange(messages, all_must_answer=True)
        return {
            client: reply_type.from_content(reply.content)
            for client, reply in zip(self.nodes, replies, strict=True)
        }

    @staticmethod
    def _messages(request: Request, nodes: Iterable[int]) -> list[Message]:
        content = request.to_content()
        kind = request.message_type
        return [Message(content, dst_node_id=node, message_type=kind) for node in nodes]

    def _exchange(
        self, messages: Iterable[Message], *, all_must_answer: bool = False
    ) -> list[Message]:
        """Send messages; return the good replies in the order of the clients.

        A fixed order makes sums, and so the run, independent of who answered first.

        Raises
        ------
        UserError
            If no client answered well, or one did not and all must.
        """
        order = {node: client for client, node in self.nodes.items()}
        messages = list(messages)
        timeout = self.config.federation.round_timeout
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        good, problems = [], []
        for node in sorted(
            (message.metadata.dst_node_id for message in messages),
            key=lambda node: order.get(node, node),
        ):
            who = f"client {order[node]}" if node in order else f"SuperNode {node}"
            reply = answered.get(node)
            if reply is None:
                problems.append(f"{who} did not answer within {timeout:g} s")
            elif reply.has_error():
                problems.append(f"{who}: {_first_line(reply.error.reason)}")
            else:
                good.append(reply)
        if problems and (all_must_answer or not good):
            raise UserError("; ".join(problems))
        for problem in problems:
            log.warning("left out of this round: %s", problem)
        return good

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


def _first_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0] if lines else "failed without a reason"
