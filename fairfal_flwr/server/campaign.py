"""The campaign: annotate, train, evaluate, record, cycle by cycle (method §1)."""

import logging
from dataclasses import replace
from statistics import mean
from time import perf_counter
from typing import Any

from flwr.serverapp import Grid

from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import (
    ImbalanceReply,
    ImbalanceRequest,
    SelectReply,
    SelectRequest,
    StatusRequest,
)
from fairfal_flwr.query.registry import Requirements, resolve
from fairfal_flwr.randomness import derive_seed
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.server.checkpoint import find_checkpoint
from fairfal_flwr.server.clients import Clients
from fairfal_flwr.server.counts import (
    Limits,
    global_queries,
    labels_of,
    most_labels,
)
from fairfal_flwr.server.evaluator import ClientsEvaluation, Evaluation, Evaluator
from fairfal_flwr.server.federation import Federation
from fairfal_flwr.server.readiness import check_network, remarks
from fairfal_flwr.server.recorder import Recorder
from fairfal_flwr.server.replies import (
    check_imbalance_reply,
    check_poll_reply,
    check_select_reply,
)
from fairfal_flwr.server.rows import cycle_row, round_row
from fairfal_flwr.server.state import CampaignState
from fairfal_flwr.server.waiting import await_answers

__all__ = ["Campaign"]

log = logging.getLogger("fairfal.server")


class Campaign:
    """One run: annotation and federated training, cycle by cycle.

    Parameters
    ----------
    config : RunConfig
        The run's configuration.
    grid : Grid
        Flower's way to the nodes.

    Attributes
    ----------
    state : CampaignState
        Where the run stands; at first where `campaign.resume` left it, if that is set.

    Raises
    ------
    UserError
        If the test images, the device or the output folder cannot be used, the
        aggregation strategy cannot do what it is told, or the run cannot be gone on
        with. No client has been bothered by then.
    """

    def __init__(self, config: RunConfig, grid: Grid) -> None:
        self.config = config
        checkpoint = find_checkpoint(config)
        self.evaluator = Evaluator(config)
        check_network(config, self.evaluator.architecture)
        self.clients = Clients(grid, config.federation, self._tell)
        self.federation = Federation(
            config,
            self.clients,
            self.evaluator.buffers(),
            self.evaluator.test_set.num_classes,
        )
        self.recorder = Recorder(config, checkpoint)  # the first that writes
        for line in remarks(config, self.evaluator.train_counts):
            log.info(line)
        self.state = checkpoint.state if checkpoint else CampaignState()
        if checkpoint:
            self.federation.load_state_dict(checkpoint.memory)

    def run(self) -> None:
        """Go on from `state` to the end; what stops it leaves the last checkpoint.

        Raises
        ------
        UserError
            If the clients are not the ones configured, one cannot do its part, or too
            few answer.
        """
        try:
            self.state = self.meet_clients(self.state)
            self.recorder.save(self.state, self.federation.state_dict)
            while not self._is_over(self.state):
                self.state = self.step(self.state)
        except BaseException as error:  # somebody may also just end the process
            self._stop(error)
            raise
        self.recorder.finish(self.federation.privacy_report())

    def step(self, state: CampaignState) -> CampaignState:
        """Annotate where a cycle is to begin, else train and test one round; save."""
        self.clients.ledgers = state.ledgers
        begins = state.cycle == 0 or state.round == self.config.campaign.num_rounds
        state = self.annotate(state) if begins else self.run_round(state)
        self.recorder.save(state, self.federation.state_dict)
        return state

    def meet_clients(self, state: CampaignState) -> CampaignState:
        """Learn which node is which client, and that each can read its images."""
        request = StatusRequest(campaign=self.recorder.name)
        statuses = self.clients.meet(request, self.config.num_clients)
        samples = {client: status.num_samples for client, status in statuses.items()}
        self.recorder.announce(
            sum(samples.values()),
            num_gpus=sum(status.on_gpu for status in statuses.values()),
            rare=sorted(self.evaluator.rare_classes.tolist()),
        )
        return replace(state, samples=samples)

    def annotate(self, state: CampaignState) -> CampaignState:
        """Have every client choose and label samples; the first cycle is random."""
        started = perf_counter()
        cycle = state.cycle + 1
        name = "random" if cycle == 1 else self.config.query.strategy
        self.recorder.event(EventKind.QUERY_STARTED, cycle=cycle, strategy=name)
        needs = resolve(name).requirements(self.config.strategy_options(name))
        imbalances: dict[int, float] = {}
        if needs.needs_imbalance and state.mean_imbalance is None:
            imbalances = self.measure_imbalance(cycle, state)
            state = replace(state, mean_imbalance=mean(imbalances.values()))
            log.info("mean imbalance of the global model: %.3f", state.mean_imbalance)
        limits = {
            client: Limits.of(self.config, num_samples, cycle)
            for client, num_samples in state.samples.items()
        }
        replies = self.clients.ask(
            self._select_request(cycle, name, needs, state),
            SelectReply,
            lambda content, client: check_select_reply(content, limits[client]),
            what=f"Cycle {cycle}, query",
            share=self.config.annotation.quorum,
        )
        replies = await_answers(
            self.clients,
            StatusRequest(campaign=self.recorder.name, cycle=cycle),
            self.config.annotation,
            replies,
            sum(state.labels.get(client, 0) for client in replies),
            lambda content, client: check_poll_reply(content, client, limits[client]),
            self.recorder.record_standing,
        )
        self.recorder.record_queries(cycle, name, replies, imbalances)
        return replace(
            self._with_model_for(cycle, state),
            cycle=cycle,
            round=0,
            labels=labels_of(replies, state),
            most_labels=most_labels(replies, state, limits),
            ledgers={**state.ledgers, **{c: r.ledger for c, r in replies.items()}},
            global_queries=global_queries(replies),
            query_seconds=perf_counter() - started,
            train_seconds=0.0,
        )

    def measure_imbalance(self, cycle: int, state: CampaignState) -> dict[int, float]:
        """Return γ_k by client, of those who answer; their mean is kept for good."""
        request = ImbalanceRequest(
            campaign=self.recorder.name, cycle=cycle, weights=state.weights
        )
        replies = self.clients.ask(
            request,
            ImbalanceReply,
            lambda content, _: check_imbalance_reply(content),
            what=f"Cycle {cycle}, imbalance",
            share=self.config.annotation.quorum,
        )
        return {client: reply.imbalance for client, reply in replies.items()}

    def run_round(self, state: CampaignState) -> CampaignState:
        """Train on the clients and aggregate; test and record where it is due."""
        started = perf_counter()
        campaign = self.config.campaign
        number = state.round + 1
        self.recorder.event(EventKind.ROUND_STARTED, cycle=state.cycle, round=number)
        trained = self.federation.train(self.recorder.name, state, self.recorder.saved)
        state = replace(
            state,
            round=number,
            weights=trained.weights,
            strategy_rounds=state.strategy_rounds + 1,
        )
        is_last = number == campaign.num_rounds
        due = is_last or number % campaign.evaluate_every == 0
        evaluation, on_clients = self.evaluate(state) if due else (None, None)
        seconds = perf_counter() - started
        state = replace(state, train_seconds=state.train_seconds + seconds)
        self.recorder.record_round(
            round_row(state, trained, evaluation, on_clients, seconds)
        )
        if is_last:
            assert evaluation is not None
            row = cycle_row(state, evaluation)
            privacy = self.federation.privacy_report()
            self.recorder.record_cycle(row, state.weights, privacy)
        return state

    def evaluate(
        self, state: CampaignState
    ) -> tuple[Evaluation, ClientsEvaluation | None]:
        """Test the global model here, and on the clients where that is asked for.

        A server without test images takes what the clients say.
        """
        evaluation = self.evaluator.evaluate(state.weights)
        replies = self.federation.evaluate(self.recorder.name, state)
        on_clients = ClientsEvaluation.pooled(replies)
        return evaluation or self.evaluator.from_clients(on_clients), on_clients

    def _stop(self, error: BaseException) -> None:
        """Leave behind what there is; an error is a failure, all else a stop."""
        failed = isinstance(error, Exception)
        self.recorder.stop(
            self.federation.privacy_report(),
            (str(error) or repr(error)) if failed else None,
        )

    def _tell(self, kind: EventKind, **facts: Any) -> None:
        self.recorder.event(kind, **facts)

    def _is_over(self, state: CampaignState) -> bool:
        """Tell whether the last cycle is done, or one after which nothing is left."""
        campaign = self.config.campaign
        if state.round < campaign.num_rounds:
            return False
        return state.cycle == campaign.num_cycles or state.is_labeled

    def _select_request(
        self, cycle: int, name: str, needs: Requirements, state: CampaignState
    ) -> SelectRequest:
        return SelectRequest(
            campaign=self.recorder.name,
            cycle=cycle,
            strategy=name,
            global_imbalance=state.mean_imbalance if needs.needs_imbalance else None,
            weights=state.weights if needs.models else None,
        )

    def _with_model_for(self, cycle: int, state: CampaignState) -> CampaignState:
        """Return the state with the model that a cycle's training starts from."""
        if cycle > 1 and self.config.campaign.reset == "continue":
            return state
        self.federation.restart()
        seed = derive_seed(self.config.seed, "global-model", cycle)
        weights = self.evaluator.new_weights(seed)
        return replace(state, weights=weights, strategy_rounds=0)
