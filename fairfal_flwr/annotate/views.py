"""Questions in the words of the page: JSON that a browser gets."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from fairfal_flwr.client.questions import Question, Row
from fairfal_flwr.client.sheet import Sheet, Word

__all__ = ["Reasons", "pace", "said_by", "view", "word_of_others"]

View = dict[str, Any]
LONGEST_PAUSE = 120.0  # seconds; a longer gap between two answers is no work
RECENT = 20


class Reasons:
    """Why each question was asked, beside those of the same cycle.

    Parameters
    ----------
    questions : sequence of Question
        All of a ledger.
    class_names : sequence of str
        By label.
    """

    def __init__(
        self, questions: Sequence[Question], class_names: Sequence[str]
    ) -> None:
        self._names = class_names
        self._asked = Counter(question.cycle for question in questions)
        self._alike = Counter((q.cycle, q.suggestion) for q in questions)
        scores: dict[int, list[float]] = defaultdict(list)
        for question in questions:
            if question.score is not None:
                scores[question.cycle].append(question.score)
        self._scores = {cycle: sorted(values) for cycle, values in scores.items()}

    def asked(self, question: Question) -> str:
        """Say when and by what a question was asked, and where in its order."""
        return (
            f"Asked in cycle {question.cycle} by {question.strategy}; "
            f"{self.place(question)}"
        )

    def place(self, question: Question) -> str:
        """Say where a question is in the order of its cycle."""
        return f"{_ordinal(question.rank + 1)} of {self._asked[question.cycle]}"

    def looks(self, question: Question) -> str:
        """Say what the model takes it for; empty without a suggestion."""
        if question.suggestion is None:
            return ""
        number = self._alike[question.cycle, question.suggestion]
        name = name_of(self._names, question.suggestion)
        return f"The model takes it for «{name}», as {number} of this cycle's"

    def score(self, question: Question) -> str:
        """Say how much it was wanted; empty without a score."""
        if question.score is None:
            return ""
        scores = self._scores[question.cycle]
        below = 100 * bisect_left(scores, question.score) // len(scores)
        return (
            f"its score {question.score:.3g} is higher than {below} % of this cycle's"
        )


def name_of(names: Sequence[str], label: int | None) -> str:
    """Return the word for a label; for None, that nobody could tell."""
    if label is None:
        return "can't tell"
    return names[label] if 0 <= label < len(names) else f"class {label}"


def view(
    question: Question, reasons: Reasons, sheet: Sheet, votes: int, me: str, closed: int
) -> View:
    """Return what the page shows of a question to one person.

    Nobody sees another's vote before giving their own, but the person who is asked
    because two disagree.
    """
    decision = question.decision
    mine = said_by(question, me, votes)
    tells = mine is not None or decision is not None or len(question.votes) >= votes
    return {
        "id": str(question.sample_id),
        "cycle": question.cycle,
        "late": question.cycle <= closed,
        "suggestion": question.suggestion,
        "place": reasons.place(question),
        "asked": reasons.asked(question),
        "looks": reasons.looks(question),
        "score": reasons.score(question),
        "seen": question.last,
        "votes": _votes(question) if votes > 1 and tells else [],
        "decision": _decision(question, votes, sheet) if decision else None,
        "mine": None if mine is None else {"label": mine.label},
        "at": question.rows[-1].answered_at if question.rows else question.asked_at,
    }


def said_by(question: Question, person: str, votes: int) -> Row | None:
    """Return the row by which a person's word stands; None without one."""
    decision = question.decision
    if votes == 1:
        return decision if decision and decision.annotator == person else None
    if person not in question.votes:
        return None
    own = (row for row in reversed(question.rows) if row.annotator == person)
    return next((row for row in own if row.action == "vote"), None)


def pace(times: Sequence[str]) -> float | None:
    """Return answers per minute from the times of a person's last ones, ascending.

    Examples
    --------
    >>> pace(["2026-01-01T10:00:00+00:00", "2026-01-01T10:00:20+00:00"])
    3.0
    >>> pace(["2026-01-01T10:00:00+00:00"]) is None
    True
    """
    moments = [datetime.fromisoformat(time) for time in times[-RECENT:]]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]
    worked = [gap for gap in gaps if 0 <= gap <= LONGEST_PAUSE]
    return 60 * len(worked) / sum(worked) if sum(worked) else None


def word_of_others(word: Word | None, now: datetime | None = None) -> View | None:
    """Return what the server last said; a deadline as the moment when it ends."""
    if word is None:
        return None
    until = None
    if word.seconds_left is not None:
        told = datetime.fromisoformat(word.told_at)
        end = told + timedelta(seconds=word.seconds_left)
        until = max(0.0, (end - (now or datetime.now(UTC))).total_seconds())
    return {
        "cycle": word.cycle,
        "sites": word.awaited,
        "open": word.open,
        "seconds": until,
    }


def _votes(question: Question) -> list[View]:
    return [{"by": name, "label": label} for name, label in question.votes.items()]


def _decision(question: Question, votes: int, sheet: Sheet) -> View:
    row = question.decision
    assert row is not None
    by = row.annotator
    if votes > 1:
        agreed = [name for name, label in question.votes.items() if label == row.label]
        by = " and ".join(agreed) or by
    return {
        "label": row.label,
        "name": name_of(sheet.class_names, row.label),
        "by": by,
        "at": row.answered_at,
    }


def _ordinal(number: int) -> str:
    """Return a number as a place in an order.

    Examples
    --------
    >>> [_ordinal(number) for number in (1, 2, 3, 4, 11, 12, 21, 113)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '113th']
    """
    teens = 10 < number % 100 < 20
    return f"{number}{'th' if teens else ENDINGS.get(number % 10, 'th')}"


ENDINGS = {1: "st", 2: "nd", 3: "rd"}
