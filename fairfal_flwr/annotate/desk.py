"""One client's questions, as people work on them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from fairfal_flwr.annotate.images import Picture, picture_of
from fairfal_flwr.annotate.leases import Leases
from fairfal_flwr.annotate.views import (
    Reasons,
    View,
    pace,
    said_by,
    view,
    word_of_others,
)
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.questions import Answer, Question
from fairfal_flwr.client.sheet import Sheet, read_sheet, read_word, sheet_file

__all__ = ["Desk", "Item", "UnknownError"]

AHEAD = 5  # questions that a page has in hand
MOST_SHOWN = 60  # in the grid and in the history


class UnknownError(Exception):
    """What a page asks about is not in the ledger."""


class Item(NamedTuple):
    """A question that is answered, and the number of its last row that was seen."""

    sample_id: int
    seen: int


@dataclass(frozen=True)
class _Content:
    """What the files say at one moment."""

    sheet: Sheet
    questions: dict[int, Question]
    cycle: int
    closed: int
    reasons: Reasons


class Desk:
    """One client's questions.

    Parameters
    ----------
    key : str
        Its name in addresses.
    path : Path
        The client's ledger; its sheet lies beside it.
    votes : int or None
        People who must agree; None for what the sheet says.

    Raises
    ------
    UserError
        If ledger or sheet cannot be used.
    """

    def __init__(self, key: str, path: Path, votes: int | None = None) -> None:
        self.key = key
        self._path = path
        self._votes = votes
        self._ledger = Ledger(path, None)
        self._leases = Leases()
        self._skipped: dict[str, dict[int, None]] = {}
        self._at_once: dict[str, set[int]] = {}  # a person's last answer was for these
        self._lock = Lock()
        self._read_at = self._stamp()
        self._content = self._read(self._ledger.last_cycle())

    @property
    def title(self) -> str:
        """What people call it."""
        sheet = self._content.sheet
        return f"{sheet.campaign}, client {sheet.client}"

    def awaits(self, me: str) -> int:
        """Return how many questions await a person."""
        content = self._now()
        votes = self._needed(content)
        return sum(q.awaits(me, votes) for q in content.questions.values())

    def state(self, me: str, showing: Sequence[int] = ()) -> View:
        """Return all that one person's page shows beside the images.

        Parameters
        ----------
        me : str
            Whose page it is.
        showing : sequence of int
            Samples that it shows now, which it keeps.
        """
        content = self._now()
        votes = self._needed(content)
        waiting = self._waiting(content, me)
        with self._lock:
            mine = self._leases.choose(me, waiting, votes)
            mine = _first(mine, showing)[: max(AHEAD, len(showing))]
            shown = [q.sample_id for q in mine[: max(1, len(showing))]]
            following = [q.sample_id for q in mine[len(shown) :]]
            self._leases.hold(me, shown, following)
        return {
            "classes": content.sheet.class_names,
            "people": votes,
            "queue": [self._view(content, question, me) for question in mine],
            "progress": self._progress(content, me, waiting),
            "others": word_of_others(read_word(self._path)),
        }

    def answer(self, me: str, label: int | None, items: Sequence[Item]) -> View:
        """Write one answer to some questions; what somebody answered since is not.

        Returns
        -------
        View
            The ids that were written, and the questions that were answered meanwhile.

        Raises
        ------
        UnknownError
            If a question or the class does not exist; nothing is written then.
        """
        content = self._now()
        self._check(content, label, items)
        votes = self._needed(content)
        answers = [Answer(sample_id, label, me, seen) for sample_id, seen in items]
        stale = {answer.sample_id for answer in self._write(answers, votes)}
        done = [item.sample_id for item in items if item.sample_id not in stale]
        if done:
            self._at_once[me] = set(done)
        for item in items:
            self._skipped.get(me, {}).pop(item.sample_id, None)
        content = self._now()
        missed = [content.questions[sample_id] for sample_id in stale]
        repeated = [q for q in missed if _says(q, me, votes, label)]
        return {
            "done": [*map(str, done), *(str(q.sample_id) for q in repeated)],
            "stale": [self._view(content, q, me) for q in missed if q not in repeated],
            "late": any(
                content.questions[sample_id].cycle <= content.closed
                for sample_id in done
            ),
        }

    def _write(self, answers: Sequence[Answer], votes: int) -> list[Answer]:
        """Write answers; return what was not, as somebody said something since.

        Votes are given blind: another's does not make one stale.
        """
        stale = self._ledger.answer_all(answers, votes)
        questions = self._now().questions
        blind = [
            answer
            for answer in stale
            if _is_blind(questions[answer.sample_id], answer.annotator, votes)
        ]
        again = [a._replace(seen=questions[a.sample_id].last) for a in blind]
        return [
            *(answer for answer in stale if answer not in blind),
            *(self._ledger.answer_all(again, votes) if again else ()),
        ]

    def undo(self, me: str) -> View:
        """Take a person's last answer back, to all the questions that it was for.

        Returns
        -------
        View
            Those that wait again, which are none where there is nothing to take back.

        Raises
        ------
        StaleError
            If somebody said something about such a question just now.
        """
        content = self._now()
        answered = [question for _, question in self._answered(content, me, mine=True)]
        ids = {question.sample_id for question in answered[:1]}
        together = self._at_once.get(me, set())
        if ids <= together:
            ids = together
        taken_back = [question for question in answered if question.sample_id in ids]
        for question in taken_back:
            self._ledger.withdraw(
                question.sample_id, me, seen=question.last, votes=self._needed(content)
            )
        content = self._now()
        return {
            "questions": [
                self._view(content, content.questions[question.sample_id], me)
                for question in reversed(taken_back)
            ]
        }

    def skip(self, me: str, sample_id: int) -> None:
        """Let a question come last for a person."""
        if sample_id not in self._now().questions:
            raise UnknownError("There is no such question.")
        skipped = self._skipped.setdefault(me, {})
        skipped.pop(sample_id, None)
        skipped[sample_id] = None

    def history(self, me: str, *, mine: bool, before: int | None = None) -> View:
        """Return what was answered, the latest first.

        Parameters
        ----------
        me : str
            Who asks.
        mine : bool
            Whether to leave out what others answered.
        before : int, optional
            Only answers before this row of the ledger.

        Returns
        -------
        View
            Questions, and the row before which older ones are; None without any.
        """
        content = self._now()
        answered = [
            (number, question)
            for number, question in self._answered(content, me, mine=mine)
            if before is None or number < before
        ]
        shown = answered[:MOST_SHOWN]
        return {
            "items": [self._view(content, question, me) for _, question in shown],
            "older": shown[-1][0] if len(answered) > len(shown) else None,
        }

    def question(self, me: str, sample_id: int) -> View:
        """Return one question as it is now.

        Raises
        ------
        UnknownError
            If it was never asked.
        """
        content = self._now()
        if sample_id not in content.questions:
            raise UnknownError("There is no such question.")
        return self._view(content, content.questions[sample_id], me)

    def grid(self, me: str, suggestion: int | None, *, first: bool) -> View:
        """Return the open questions of one suggested class, and how many each has.

        Parameters
        ----------
        me : str
            Who asks, and holds what is shown from here on.
        suggestion : int or None
            The class; None for questions without a suggestion.
        first : bool
            Whether to take the class of the first question instead.
        """
        content = self._now()
        waiting = self._waiting(content, me)
        with self._lock:
            free = self._leases.choose(me, waiting, self._needed(content))
            if first and free:
                suggestion = free[0].suggestion
            shown = [q for q in free if q.suggestion == suggestion][:MOST_SHOWN]
            self._leases.hold(me, (q.sample_id for q in shown), ())
        counts = Counter(question.suggestion for question in free)
        return {
            "suggestion": suggestion,
            "groups": [
                {"suggestion": label, "open": count}
                for label, count in sorted(
                    counts.items(), key=lambda pair: (pair[0] is None, pair[0] or 0)
                )
            ],
            "items": [self._view(content, question, me) for question in shown],
        }

    def picture(self, sample_id: int, *, thumb: bool) -> Picture:
        """Return a question's image.

        Raises
        ------
        UnknownError
            If it was never asked about.
        UnfitError
            If it cannot be shown.
        """
        content = self._now()
        if sample_id not in content.questions:
            raise UnknownError("There is no such question.")
        return picture_of(content.sheet, sample_id, thumb=thumb)

    def _now(self) -> _Content:
        """Return what the files say, read anew only as far as one was written since."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._read_at:
                cycle = self._ledger.last_cycle()
                asked = cycle != self._content.cycle or stamp[-1] != self._read_at[-1]
                self._content = self._read(cycle) if asked else self._with_answers()
                self._read_at = stamp
            return self._content

    def _read(self, cycle: int) -> _Content:
        sheet = read_sheet(sheet_file(self._path))
        questions = self._ledger.questions()
        return _Content(
            sheet,
            {question.sample_id: question for question in questions},
            cycle,
            self._ledger.closed_cycles(),
            Reasons(questions, sheet.class_names),
        )

    def _with_answers(self) -> _Content:
        before = self._content
        last = max((q.last for q in before.questions.values()), default=0)
        changed = self._ledger.questions(after=last)
        return replace(
            before,
            questions=before.questions | {q.sample_id: q for q in changed},
            closed=self._ledger.closed_cycles(),
        )

    def _stamp(self) -> tuple[Any, ...]:
        wal = self._path.with_name(f"{self._path.name}-wal")
        return tuple(map(_stamp_of, (self._path, wal, sheet_file(self._path))))

    def _needed(self, content: _Content) -> int:
        return self._votes or content.sheet.votes

    def _view(self, content: _Content, question: Question, me: str) -> View:
        votes = self._needed(content)
        return view(question, content.reasons, content.sheet, votes, me, content.closed)

    def _waiting(self, content: _Content, me: str) -> list[Question]:
        """Return what awaits a person: the present cycle first, the skipped last."""
        votes = self._needed(content)
        waiting = [q for q in content.questions.values() if q.awaits(me, votes)]
        place = {sample: n for n, sample in enumerate(self._skipped.get(me, ()), 1)}
        return sorted(
            waiting,
            key=lambda q: (place.get(q.sample_id, 0), q.cycle <= content.closed),
        )

    def _answered(
        self, content: _Content, me: str, *, mine: bool
    ) -> list[tuple[int, Question]]:
        """Return the questions that have an answer with its row, the latest first."""
        votes = self._needed(content)
        found = []
        for question in content.questions.values():
            row = said_by(question, me, votes) if mine else question.decision
            if row is not None:
                found.append((row.number, question))
        return sorted(found, key=lambda pair: -pair[0])

    def _progress(
        self, content: _Content, me: str, waiting: Sequence[Question]
    ) -> View:
        questions = content.questions.values()
        cycle = max((q.cycle for q in questions), default=0)
        present = [q for q in questions if q.cycle == cycle]
        votes = self._needed(content)
        own = [row for q in questions if (row := said_by(q, me, votes)) is not None]
        times = sorted(row.answered_at for row in own)
        decided = sum(q.decision is not None for q in present)
        open_now = sum(q.decision is None for q in questions)
        return {
            "cycle": cycle,
            "closed": content.closed,
            "asked": len(present),
            "answered": decided,
            "open": len(present) - decided,
            "open-in-all": open_now,
            "for-me": len(waiting),
            "mine": len(own),
            "per-minute": pace(times),
        }

    def _check(
        self, content: _Content, label: int | None, items: Sequence[Item]
    ) -> None:
        num_classes = len(content.sheet.class_names)
        if label is not None and not 0 <= label < num_classes:
            raise UnknownError(f"There is no class {label}.")
        if any(item.sample_id not in content.questions for item in items):
            raise UnknownError("There is no such question.")


def _first(questions: list[Question], showing: Sequence[int]) -> list[Question]:
    """Return questions with those that are shown already in front."""
    place = {sample: number for number, sample in enumerate(showing)}
    return sorted(
        questions, key=lambda question: place.get(question.sample_id, len(place))
    )


def _is_blind(question: Question, me: str, votes: int) -> bool:
    """Tell whether a person who has said nothing yet sees nothing that others said."""
    spoke = any(row.annotator == me for row in question.rows)
    return question.decision is None and len(question.votes) < votes and not spoke


def _says(question: Question, me: str, votes: int, label: int | None) -> bool:
    """Tell whether a person's word stands and is this one: it was sent twice."""
    row = said_by(question, me, votes)
    return row is not None and row.label == label


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
