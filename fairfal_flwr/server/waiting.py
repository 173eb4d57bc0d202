"""Waiting for people's answers: short messages, for as long as it takes."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic, sleep

from fairfal_flwr.config import AnnotationConfig
from fairfal_flwr.messages import SelectReply, StatusReply, StatusRequest
from fairfal_flwr.server.clients import Clients
from fairfal_flwr.server.counts import Standing
from fairfal_flwr.server.replies import Check

__all__ = ["await_answers"]

log = logging.getLogger("fairfal.server")

# While people answer it is asked often, but a message may start a process at a client.
REST = 4.0  # times as long as the replies to the last message took
IDLE_REST = 0.1  # times as long as nobody has answered anything
LEAST_REST = 0.2  # seconds
PATIENCE = 120.0  # seconds for the replies to one message; twice as many for the next


def await_answers(
    clients: Clients,
    request: StatusRequest,
    rules: AnnotationConfig,
    replies: Mapping[int, SelectReply],
    num_labels: int,
    check: Check,
    tell: Callable[[Standing], None],
) -> dict[int, SelectReply]:
    """Wait until all questions are answered, or the deadline lets the cycle go on.

    A client that cannot be reached keeps what it last said.

    Parameters
    ----------
    clients : Clients
        Of the campaign.
    request : StatusRequest
        Its campaign and cycle; what is waited for is filled in.
    rules : AnnotationConfig
        Deadline, least labels and how often to ask.
    replies : Mapping[int, SelectReply]
        What the clients said when they were asked to select.
    num_labels : int
        Labels of these clients before this cycle.
    check : callable
        See `Check`, for the replies.
    tell : callable
        Told how things stand after each look.

    Returns
    -------
    dict of int to SelectReply
        The same replies with the counts of the end.
    """
    wait = _Wait(rules, replies, num_labels, request.cycle or 0)
    patience = PATIENCE
    while wait.standing.num_open:
        standing, asked = wait.standing, monotonic()
        heard = clients.hear(
            replace(
                request,
                awaited=sum(count > 0 for count in standing.open.values()),
                open=standing.num_open,
                seconds_left=standing.seconds_left,
            ),
            StatusReply,
            check,
            among=replies,
            timeout=patience,
        )
        patience = PATIENCE if len(heard) == len(replies) else 2 * patience
        took = monotonic() - asked
        wait.take(heard)
        tell(wait.standing)
        if wait.may_go_on():
            break
        rest = max(LEAST_REST, REST * took, IDLE_REST * wait.idle)
        sleep(min(rest, rules.poll_seconds, wait.standing.seconds_left or rest))
    return wait.replies


class _Wait:
    """What the clients said so far, and for how long it is waited yet."""

    def __init__(
        self,
        rules: AnnotationConfig,
        replies: Mapping[int, SelectReply],
        num_labels: int,
        cycle: int,
    ) -> None:
        self.replies = dict(replies)
        self._deadline, self._min_labels = rules.deadline, rules.min_labels
        self._cycle = cycle
        self._num_labels = num_labels
        # Who was asked last; of a run that goes on, that is long ago.
        ages = [reply.asked_seconds for reply in replies.values()]
        self._asked_at = monotonic() - min(ages, default=0.0)
        self._answered_at = monotonic()
        self._is_late = False

    @property
    def idle(self) -> float:
        """Seconds since somebody answered something."""
        return monotonic() - self._answered_at

    @property
    def standing(self) -> Standing:
        return Standing(
            self._cycle,
            {client: reply.num_open for client, reply in self.replies.items()},
            {client: reply.num_labeled for client, reply in self.replies.items()},
            self._seconds_left(),
        )

    def take(self, heard: Mapping[int, StatusReply]) -> None:
        before = self.standing.open
        for client, status in heard.items():
            self.replies[client] = replace(
                self.replies[client],
                num_labeled=status.num_labeled,
                num_unlabeled=status.num_samples - status.num_labeled,
                num_open=status.num_open,
                num_set_aside=status.num_set_aside,
                ledger=status.ledger,
            )
        if self.standing.open != before:
            self._answered_at = monotonic()

    def may_go_on(self) -> bool:
        """Tell whether enough is answered, or time is up with enough labels."""
        standing = self.standing
        if not standing.num_open:
            return True
        if standing.seconds_left != 0:
            return False
        added = sum(standing.labeled.values()) - self._num_labels
        if added >= self._min_labels:
            log.warning(
                "cycle %d: the deadline has passed; goes on with %d new labels, %d "
                "questions stay open",
                self._cycle,
                added,
                standing.num_open,
            )
            return True
        if not self._is_late:
            self._is_late = True
            log.warning(
                "cycle %d: the deadline has passed with %d new labels, fewer than "
                "`annotation.min-labels` = %d; waiting for them",
                self._cycle,
                added,
                self._min_labels,
            )
        return False

    def _seconds_left(self) -> float | None:
        if not self._deadline:
            return None
        return max(0.0, self._asked_at + self._deadline - monotonic())
