"""What a client asked of people, and what they have said so far, question by question.

Pure data: the ledger reads and writes the rows, and the rule by which several people's
votes become an answer stands here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

__all__ = [
    "Answer",
    "Counts",
    "Question",
    "Row",
    "StaleError",
    "Verdict",
    "rows_of",
    "rows_of_withdrawal",
    "verdict_of",
]


Said = tuple[str, int | None, str]  # action, label, annotator


class StaleError(Exception):
    """Somebody has answered since the person looked; nothing was written."""


class Answer(NamedTuple):
    """What a person says about a question.

    Parameters
    ----------
    sample_id : int
        Which.
    label : int or None
        A class; None if the person cannot tell.
    annotator : str
        Who.
    seen : int or None
        `Question.last` as the person saw it; None to answer whatever was said.
    """

    sample_id: int
    label: int | None
    annotator: str
    seen: int | None = None


class Counts(NamedTuple):
    """What became of the samples that a client asked for.

    Parameters
    ----------
    labeled, set_aside, waiting : int
        With a label, without one as nobody could tell, and without an answer.
    """

    labeled: int
    set_aside: int
    waiting: int


class Verdict(NamedTuple):
    """What votes come to: a class, or None where people cannot tell; and whose."""

    label: int | None
    annotators: tuple[str, ...]


class Row(NamedTuple):
    """One row of a ledger's answers.

    Parameters
    ----------
    number : int
        Counted from 1 over the whole ledger.
    sample_id : int
        Which question.
    action : {"label", "set-aside", "withdraw", "vote"}
        A label, "cannot tell", the withdrawal of what its annotator said before, or one
        person's word where several are asked.
    label : int or None
        The class of a label or a vote.
    annotator : str
        Who says so.
    answered_at : str
        ISO time in UTC.
    """

    number: int
    sample_id: int
    action: str
    label: int | None
    annotator: str
    answered_at: str


@dataclass(frozen=True)
class Question:
    """A sample that a client asked for, with all that was said about it.

    Parameters
    ----------
    sample_id : int
        Which image.
    cycle, rank : int
        When it was asked for, and where in the order of preference, from 0.
    strategy : str
        What chose it.
    asked_at : str
        ISO time in UTC.
    suggestion : int or None
        A guess of its class.
    score : float or None
        Why it was chosen; larger is more wanted.
    rows : tuple of Row
        In the order written.
    """

    sample_id: int
    cycle: int
    rank: int
    strategy: str
    asked_at: str
    suggestion: int | None
    score: float | None
    rows: tuple[Row, ...] = ()

    @property
    def last(self) -> int:
        """The number of the last row; 0 without any."""
        return self.rows[-1].number if self.rows else 0

    def has_news_for(self, seen: int | None) -> bool:
        """Tell whether something was said after row `seen`; None wants no news."""
        return seen not in (None, self.last)

    @cached_property
    def decision(self) -> Row | None:
        """The label or "cannot tell" that stands; None while the question is open."""
        final = [row for row in self.rows if row.action != "vote"]
        return final[-1] if final and final[-1].action != "withdraw" else None

    @cached_property
    def votes(self) -> dict[str, int | None]:
        """What each person said last and stands by, the latest last."""
        votes: dict[str, int | None] = {}
        for row in self.rows:
            if row.action in ("vote", "withdraw"):
                votes.pop(row.annotator, None)
            if row.action == "vote":
                votes[row.annotator] = row.label
        return votes

    def awaits(self, annotator: str, votes: int) -> bool:
        """Tell whether it is open and this person has not said anything about it.

        Parameters
        ----------
        annotator : str
            Who asks.
        votes : int
            People who must agree; with 1 there are no votes.
        """
        return self.decision is None and not (votes > 1 and annotator in self.votes)


def rows_of(
    answer: Answer, question: Question, votes: int, number: int, time: str
) -> tuple[Row, ...]:
    """Return what an answer adds to a ledger.

    Parameters
    ----------
    answer : Answer
        What a person says.
    question : Question
        About what, with all that was said before.
    votes : int
        People who must agree. With more than one the answer is a vote, and what the
        votes then come to is a row of its own, by all who voted so. A vote on a
        question that was decided opens it first.
    number : int
        Of the first row.
    time : str
        ISO time in UTC.
    """
    sample_id, label, annotator, _ = answer
    said: list[Said] = []
    if votes == 1:
        said.append((_action(label), label, annotator))
    else:
        if question.decision:
            said.append(("withdraw", None, annotator))
        said.append(("vote", label, annotator))
        before = {who: what for who, what in question.votes.items() if who != annotator}
        said += _decided({**before, annotator: label}, votes)
    return _rows(said, sample_id, number, time)


def rows_of_withdrawal(
    annotator: str, question: Question, votes: int, number: int, time: str
) -> tuple[Row, ...]:
    """Return what a person's second thoughts add to a ledger; nothing without a first.

    The parameters are those of `rows_of`.
    """
    said: list[Said] = []
    left = {who: what for who, what in question.votes.items() if who != annotator}
    if question.decision if votes == 1 else annotator in question.votes:
        said.append(("withdraw", None, annotator))
    if said and votes > 1:
        said += _decided(left, votes)
    return _rows(said, question.sample_id, number, time)


def verdict_of(votes: Mapping[str, int | None], needed: int) -> Verdict | None:
    """Return what votes come to; None while another person must be asked.

    Parameters
    ----------
    votes : Mapping of str to int or None
        By annotator, the latest last.
    needed : int
        People who must agree. One more than that decides alone.

    Examples
    --------
    >>> verdict_of({"Ann": 3}, 2)
    >>> verdict_of({"Ann": 3, "Bo": 3}, 2)
    Verdict(label=3, annotators=('Ann', 'Bo'))
    >>> verdict_of({"Ann": 3, "Bo": None}, 2)
    >>> verdict_of({"Ann": 3, "Bo": None, "Cy": 5}, 2)
    Verdict(label=5, annotators=('Cy',))
    """
    for label, count in Counter(votes.values()).items():
        if count >= needed:
            return Verdict(label, _voters(votes.items(), label))
    if len(votes) > needed:
        label = list(votes.values())[-1]
        return Verdict(label, _voters(votes.items(), label))
    return None


def _decided(votes: Mapping[str, int | None], needed: int) -> list[Said]:
    """Return what votes come to, by all who voted so; nothing while it is open."""
    verdict = verdict_of(votes, needed)
    if verdict is None:
        return []
    return [(_action(verdict.label), verdict.label, " & ".join(verdict.annotators))]


def _rows(
    said: Iterable[Said], sample_id: int, number: int, time: str
) -> tuple[Row, ...]:
    return tuple(
        Row(place, sample_id, *what, time) for place, what in enumerate(said, number)
    )


def _action(label: int | None) -> str:
    return "set-aside" if label is None else "label"


def _voters(
    votes: Iterable[tuple[str, int | None]], label: int | None
) -> tuple[str, ...]:
    return tuple(name for name, said in votes if said == label)
