"""One round of federated training: who is asked, whose replies count, the new weights.

What the algorithms of federated optimization differ in is in here and below; to the
campaign a round is weights in, weights out.
"""

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import hypot
from typing import Any, cast

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fairfal_flwr.config import RunConfig, TrainConfig
from fairfal_flwr.config.federation import AGGREGATIONS
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import (
    ARRAYS,
    VARIATE,
    EvaluateReply,
    EvaluateRequest,
    TrainRequest,
    Weights,
    unpack_weights,
)
from fairfal_flwr.server.clients import Clients, Judge
from fairfal_flwr.server.norms import excess, norm
from fairfal_flwr.server.privacy import (
    clipping_norm,
    expect_replies,
    keep_variances_positive,
    load_wrapper_memory,
    make_private,
    privacy_report,
    renew,
    unwrapped,
    weigh_equally,
    wrapper_memory,
)
from fairfal_flwr.server.replies import (
    Check,
    check_evaluate_reply,
    check_train_reply,
)
from fairfal_flwr.server.sampling import draw_clients, grid_of
from fairfal_flwr.server.state import CampaignState
from fairfal_flwr.server.strategies import make_strategy

__all__ = ["Federation", "TrainedRound", "learning_rate"]

EXPLOSION = 1e3  # times the model's own norm; no honest mean moves so far

# What a reply moves, each judged beside the same of the other replies.
PARTS = {
    "parameters": "update",
    "buffers": "change of BatchNorm's statistics",
    "variate": "change of the control variate",
}


@dataclass(frozen=True)
class TrainedRound:
    """What a round of training came to.

    Parameters
    ----------
    weights : Weights
        The new global model.
    clients : int
        Whose replies were used.
    loss : float
        Mean of the clients' losses.
    """

    weights: Weights
    clients: int
    loss: float


class Federation:
    """The aggregation strategy, its privacy wrapper, and the clients they work with.

    Parameters
    ----------
    config : RunConfig
        The run.
    clients : Clients
        The way to them.
    buffers : frozenset of str
        Floating-point entries of the state dict that nothing trains (BatchNorm's).
    num_classes : int
        Of the image set.

    Raises
    ------
    UserError
        If the strategy cannot do what it is told.
    """

    def __init__(
        self,
        config: RunConfig,
        clients: Clients,
        buffers: frozenset[str],
        num_classes: int,
    ) -> None:
        self.config = config
        self.clients = clients
        self.buffers = buffers
        self.num_classes = num_classes
        self._entry = AGGREGATIONS[config.federation.strategy]
        self._strategy = make_private(self._fresh_strategy(), config)
        self._moved: dict[
            int, dict[str, float]
        ] = {}  # this round: node -> part -> norm

    def restart(self) -> None:
        """Forget what belongs to a model that is given up.

        Momenta and variates go with it; the privacy spent and an adapted clipping norm
        are kept.
        """
        self._strategy = renew(self._strategy, self._fresh_strategy())

    def state_dict(self) -> dict[str, Any]:
        """Return what strategy and privacy remember: arrays, and what JSON can hold."""
        inner = unwrapped(self._strategy)
        names = self._entry.remembers
        return {
            "strategy": {name: deepcopy(getattr(inner, name)) for name in names},
            "privacy": wrapper_memory(self._strategy),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        inner = unwrapped(self._strategy)
        assert state["strategy"].keys() <= set(self._entry.remembers)
        for name, value in state["strategy"].items():
            setattr(inner, name, deepcopy(value))
        load_wrapper_memory(self._strategy, state["privacy"])

    def privacy_report(self) -> dict[str, Any] | None:
        """Return what summary.json says about privacy; None where none was asked."""
        return privacy_report(self._strategy, self.config.privacy)

    def train(
        self, campaign: str, state: CampaignState, saved: tuple[int, int] | None = None
    ) -> TrainedRound:
        """Train the round after `state` on the clients, and aggregate.

        Parameters
        ----------
        campaign : str
            The run's name.
        state : CampaignState
            Where it stands.
        saved : tuple of int, optional
            Cycle and round of the last checkpoint: clients keep what a run that goes
            on from there will need.

        Raises
        ------
        UserError
            If too few clients answer well, or the aggregate is not finite.
        """
        number, server_round = state.round + 1, state.strategy_rounds + 1
        arrays, scalars = TrainRequest(
            campaign=campaign,
            cycle=state.cycle,
            round=number,
            lr=learning_rate(
                self.config.train, state.round, self.config.campaign.num_rounds
            ),
            weights=state.weights,
            saved=list(saved) if saved else None,
        ).records()
        able = [client for client in self.clients.nodes if state.labels[client]]
        fraction = self.config.federation.fraction_train
        nodes = self._draw("train", able, fraction, state.cycle, number)
        expect_replies(self._strategy, len(nodes))
        messages = self._strategy.configure_train(
            server_round, arrays, scalars, grid_of(nodes)
        )
        replies = self.clients.ask_quorum(
            messages,
            self._check(arrays, state),
            f"Cycle {state.cycle}, round {number}",
            self._judge(arrays),
        )
        aggregate, loss = self._aggregate(server_round, replies)
        weights = self._accept(aggregate, state.weights)
        return TrainedRound(weights, len(replies), loss)

    def evaluate(self, campaign: str, state: CampaignState) -> list[EvaluateReply]:
        """Return what some clients find on their own test shards; often none is asked.

        A reply that cannot be used is left out.
        """
        fraction = self.config.federation.fraction_evaluate
        if not fraction:
            return []
        arrays, scalars = EvaluateRequest(
            campaign=campaign, weights=state.weights
        ).records()
        everyone = list(self.clients.nodes)
        nodes = self._draw("evaluate", everyone, fraction, state.cycle, state.round)
        messages = self._strategy.configure_evaluate(
            state.strategy_rounds, arrays, scalars, grid_of(nodes)
        )
        replies = self.clients.ask_who_can(
            messages, lambda content, _: check_evaluate_reply(content, self.num_classes)
        )
        return [EvaluateReply.from_content(reply.content) for reply in replies]

    def _fresh_strategy(self) -> FedAvg:
        return make_strategy(self.config, self.buffers, self.clients.client_of)

    def _draw(
        self, purpose: str, clients: list[int], fraction: float, cycle: int, number: int
    ) -> list[int]:
        """Return the nodes of the clients that take part in a round."""
        seed = self.config.seed
        drawn = draw_clients(
            clients, fraction, seed, f"{purpose}-clients", cycle, number
        )
        return [self.clients.nodes[client] for client in drawn]

    def _check(self, sent: ArrayRecord, state: CampaignState) -> Check:
        trained = [name for name in sent if name not in self.buffers]

        def check(content: RecordDict, client: int) -> None:
            check_train_reply(
                content,
                sent,
                state.most_labels[client],
                variate=trained if self._entry.has_variates else (),
                norm_bit=self.config.privacy.mechanism == "client-adaptive",
            )

        return check

    def _judge(self, sent: ArrayRecord) -> Judge:
        """Return what finds the replies that moved the weights suspiciously far.

        Which replies count must not depend on the others' data where noise is to hide
        each of them, so a mechanism with noise on the server is judged by its own norm:
        the server clips to it, or each client had to.
        """
        old = {name: array.numpy() for name, array in sent.items()}
        self._moved = {}
        most = self.config.federation.max_update_norm
        adds_server_noise = self.config.privacy.adds_noise

        def judge(replies: Mapping[int, Message]) -> dict[int, str]:
            for node in replies.keys() - self._moved.keys():
                self._moved[node] = self._moves(old, replies[node].content)
            if adds_server_noise:
                return self._unclipped()
            return self._excessive(most) if most else {}

        return judge

    def _moves(
        self, old: Mapping[str, NDArray[Any]], content: RecordDict
    ) -> dict[str, float]:
        """Return the norm of what a reply adds to the weights sent, part by part."""
        new = {n: a.numpy() for n, a in content.array_records[ARRAYS].items()}
        variate = content.array_records.get(VARIATE, ArrayRecord())
        return {
            "parameters": norm(new[n] - old[n] for n in new if n not in self.buffers),
            "buffers": norm(new[n] - old[n] for n in new if n in self.buffers),
            "variate": norm(array.numpy() for array in variate.values()),
        }

    def _excessive(self, most: float) -> dict[int, str]:
        found = {}
        for part, words in PARTS.items():
            norms = {node: moved[part] for node, moved in self._moved.items()}
            for node, times in excess(norms, most).items():
                found[node] = (
                    f"the norm of its {words} is {times:.3g} times the median of this "
                    f"round; allowed: {most:g} (`federation.max-update-norm`)"
                )
        return found

    def _unclipped(self) -> dict[int, str]:
        """Return whose update was to be clipped by the client, and was not."""
        if not self.config.privacy.mechanism.startswith("client-"):
            return {}
        most = clipping_norm(self._strategy)
        totals = {n: hypot(*moved.values()) for n, moved in self._moved.items()}
        return {
            node: f"the norm of its update is {total:.3g}; allowed: {most:.3g}, to "
            "which it had to be clipped"
            for node, total in totals.items()
            if total > most * 1.001  # it is computed in single precision
        }

    def _aggregate(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, float]:
        replies = list(replies)
        expect_replies(self._strategy, len(replies))
        if self.config.privacy.adds_noise:
            weigh_equally(replies)
        aggregate, metrics = self._strategy.aggregate_train(server_round, replies)
        assert aggregate is not None
        assert metrics is not None
        return aggregate, float(cast(float, metrics["loss"]))

    def _accept(self, aggregate: ArrayRecord, last: Weights) -> Weights:
        """Return the aggregate with the types that the weights have.

        Raises
        ------
        UserError
            If it is not finite or so far from the last that it cannot be a model.
        """
        new = {
            name: value.to(last[name].dtype)
            for name, value in unpack_weights(aggregate).items()
        }
        if self.config.privacy.mechanism != "none":
            new = keep_variances_positive(new, last)
        for name, value in new.items():
            if not value.isfinite().all():
                raise UserError(self._refused(f"holds NaN or Inf in {name}"))
        trained = [name for name in new if name not in self.buffers]
        moved = norm((new[n] - last[n]).numpy() for n in trained)
        own = max(1.0, norm(last[n].numpy() for n in trained))
        if self.config.privacy.mechanism == "none" and moved > EXPLOSION * own:
            raise UserError(
                self._refused(f"moved {moved / own:.1e} times its own norm")
            )
        return last | new

    def _refused(self, why: str) -> str:
        """Say that the aggregate is not taken, and who moved it most."""
        norms = {node: moved["parameters"] for node, moved in self._moved.items()}
        first = sorted(norms, key=lambda node: -norms[node])[:3]
        largest = ", ".join(
            f"client {self.clients.client_of(node)} ({norms[node]:.3g})"
            for node in first
        )
        return (
            f"The aggregate of {self.config.federation.strategy} {why}; the model of "
            f"the round before is kept. The largest updates, by norm: {largest}. Lower "
            "the learning rates under `federation` or `train.lr`, or drop what is too "
            "large by `federation.max-update-norm`."
        )


def learning_rate(train: TrainConfig, round_index: int, num_rounds: int) -> float:
    """Return the learning rate of a round: lr, then lr · decay (method §2).

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
