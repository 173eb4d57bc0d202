"""Who is at which question, so that two people get different ones."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from fairfal_flwr.client.questions import Question

__all__ = ["Leases"]

SECONDS = 180.0  # renewed while the page shows it


@dataclass
class Leases:
    """Questions that people hold, in memory alone: what is lost is asked once more.

    Parameters
    ----------
    clock : callable
        Seconds that never go back.
    """

    clock: Callable[[], float] = monotonic
    _shown: dict[int, dict[str, float]] = field(default_factory=dict)
    _next: dict[int, dict[str, float]] = field(default_factory=dict)

    def hold(self, person: str, shown: Iterable[int], following: Iterable[int]) -> None:
        """Let a person hold what the page shows and, less firmly, what comes next.

        What the person held before is free again.
        """
        self.release(person)
        end = self.clock() + SECONDS
        for sample in shown:
            self._shown.setdefault(sample, {})[person] = end
        for sample in following:
            self._next.setdefault(sample, {})[person] = end

    def release(self, person: str) -> None:
        """Let go of all that a person holds."""
        for held in (self._shown, self._next):
            for sample in [
                sample for sample, people in held.items() if person in people
            ]:
                del held[sample][person]
                if not held[sample]:
                    del held[sample]

    def choose(
        self, person: str, questions: Sequence[Question], votes: int
    ) -> list[Question]:
        """Return the questions that a person can have, the free ones first.

        Parameters
        ----------
        person : str
            Who asks.
        questions : sequence of Question
            That await this person, in order.
        votes : int
            People who must agree: so many can be at one question, less those who have
            said something about it.
        """
        free: list[Question] = []
        later: list[Question] = []
        for question in questions:
            places = max(1, votes - len(question.votes)) if votes > 1 else 1
            at_it = self._others(self._shown, question.sample_id, person)
            if at_it >= places:
                continue
            waiting = self._others(self._next, question.sample_id, person)
            (free if at_it + waiting < places else later).append(question)
        # From the end: the other one comes to it last.
        return free or later[::-1]

    def _others(
        self, held: dict[int, dict[str, float]], sample: int, person: str
    ) -> int:
        people = held.get(sample)
        if not people:
            return 0
        now = self.clock()
        return sum(end > now for name, end in people.items() if name != person)
