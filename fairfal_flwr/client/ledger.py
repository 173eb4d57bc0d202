"""The ledger: which samples were asked for, when, and what was answered.

One SQLite file per client and campaign, the only durable thing a client has. Each
public method is one transaction, so a crash between any two statements leaves the
ledger as it was before or after, and loses no label. Rows are only ever appended, and
each transaction's are covered by an entry of the chain (`ledger_chain`), which is
computed anew whenever the ledger is opened.

A cycle is closed when the server moves on to its training. What was answered by then is
what the cycle's training sees, in every round and in every repetition of a request;
what comes later counts from the next cycle on.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import count, repeat
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.client.ledger_backups import (
    back_up,
    head_file,
    seconds_since_backup,
)
from fairfal_flwr.client.ledger_chain import (
    UNKNOWN,
    DamageError,
    Head,
    append,
    head_of,
    write_head,
)
from fairfal_flwr.client.ledger_check import (
    check_contains,
    check_never_was,
    examine,
    trouble,
)
from fairfal_flwr.client.ledger_file import connection, create, migrate, now
from fairfal_flwr.client.ledger_questions import last_number, questions_of
from fairfal_flwr.client.ledger_shard import check_asked, check_identity, num_images
from fairfal_flwr.client.questions import (
    Answer,
    Counts,
    Question,
    Row,
    StaleError,
    rows_of,
    rows_of_withdrawal,
)
from fairfal_flwr.errors import UserError

__all__ = ["Head", "Ledger"]

log = logging.getLogger("fairfal.client")

SampleIds = NDArray[np.int64]

# A person's answers are copied at most this often, in seconds; a batch always.
BACKUP_EVERY = 60.0

# The last answer that a cycle's training sees; all answers while it is open. A cycle
# that was never closed itself, because the client took no part, ends with a later one.
LAST_ANSWER = """
    SELECT coalesce(
        (SELECT min(last_answer) FROM closing WHERE cycle >= ?),
        (SELECT max(number) FROM answer)
    )
"""

# The last row of each sample decides, votes left out; the parameter is the last answer
# that counts.
LATEST = """
    SELECT sample_id, action, label FROM answer WHERE number IN (
        SELECT max(number) FROM answer
        WHERE number <= {last} AND action != 'vote' GROUP BY sample_id
    )
"""
LATEST_NOW = LATEST.format(last="(SELECT max(number) FROM answer)")
LATEST_AS_OF = LATEST.format(last=f"({LAST_ANSWER})")


class Ledger:
    """The requests and answers of one client in one campaign.

    Parameters
    ----------
    path : Path
        The SQLite file; created with its folder where it is missing.
    identity : str or None
        Of the client's shard (`Shard.identity`). A ledger belongs to one shard; None
        opens one that is there already, whosever it is.
    expected : Head, optional
        What the server knows of the ledger; without entries, nothing.

    Raises
    ------
    UserError
        If the file is damaged, missing, or not what it was when `expected` was told;
        if it cannot be written, or belongs to another shard. It is left as it is.
    """

    def __init__(
        self, path: Path, identity: str | None, expected: Head = UNKNOWN
    ) -> None:
        self.path = path
        self._tidying = Lock()
        try:
            if not path.exists():
                check_never_was(path, expected)
                if identity is None:
                    raise UserError(f"There is no label ledger {path}.")
                create(path, identity)
            examine(path, expected)
            migrate(path)
        except (OSError, sqlite3.DatabaseError) as error:
            raise trouble(path, error) from None
        if identity is not None:
            with self._transaction() as db:
                check_identity(path, _identity_of(db), identity)

    @property
    def head(self) -> Head:
        """The end of the chain, which stands for the whole content."""
        with self._transaction() as db:
            return head_of(db)

    @property
    def num_images(self) -> int:
        """The number of images that the shard had when the ledger was made."""
        with self._transaction() as db:
            return num_images(_identity_of(db))

    def check_asked(self, held: SampleIds) -> None:
        """Make sure that every sample that was ever asked for is among some.

        Parameters
        ----------
        held : ndarray, shape (n,), int64
            Those of the shard.

        Raises
        ------
        UserError
            If some are not.
        """
        check_asked(self.path, self.requested(), held)

    def check_contains(self, head: Head) -> None:
        """Make sure that the ledger still has what it had when it had this head.

        Parameters
        ----------
        head : Head
            What the server knows; without entries, nothing is checked.

        Raises
        ------
        UserError
            If the ledger went back in time, as one restored from an old copy does.
        """
        try:
            check_contains(self.path, head)
        except sqlite3.DatabaseError as error:
            raise trouble(self.path, error) from None

    def record_selection(
        self,
        cycle: int,
        strategy: str,
        sample_ids: SampleIds,
        *,
        suggestions: NDArray[np.int64] | None = None,
        scores: NDArray[np.float32] | None = None,
        notes: Mapping[str, float] | None = None,
        memory: Mapping[str, tuple[SampleIds, NDArray[np.int64]]] | None = None,
    ) -> None:
        """Ask for samples. A cycle that is known already keeps its first selection.

        Parameters
        ----------
        cycle : int
            Counted from 1.
        strategy : str
            What chose them.
        sample_ids : ndarray, shape (n,), int64
            In the order of preference.
        suggestions : ndarray, shape (n,), int64, optional
            A guess of the class of each.
        scores : ndarray, shape (n,), optional
            Why each was chosen; larger is more wanted.
        notes : Mapping[str, float], optional
            The strategy's own record.
        memory : Mapping of str to pair of ndarray, optional
            What the strategy remembers from here on: by name, samples and their
            values; without it, what it remembered before.
        """
        guesses, reasons = _column(suggestions), _column(scores)
        rows = zip(
            sample_ids.tolist(), repeat(cycle), count(), guesses, reasons, strict=False
        )
        with self._writing() as db:
            if self._knows(db, cycle):
                return
            facts = json.dumps(dict(notes or {})), json.dumps(list(memory or {}))
            db.execute(
                "INSERT INTO selection VALUES (?, ?, ?, ?, ?)",
                (cycle, strategy, *facts, now()),
            )
            db.executemany("INSERT INTO request VALUES (?, ?, ?, ?, ?)", rows)
            for name, (samples, values) in (memory or {}).items():
                db.executemany(
                    "INSERT INTO memory VALUES (?, ?, ?, ?)",
                    zip(
                        repeat(cycle),
                        repeat(name),
                        samples.tolist(),
                        values.tolist(),
                        strict=False,
                    ),
                )
            append(db, "selection", cycle, cycle)

    def record_answers(
        self, sample_ids: SampleIds, labels: NDArray[np.int64], annotator: str
    ) -> None:
        """Append the classes of samples that were asked for, all or none."""
        pairs = zip(sample_ids.tolist(), labels.tolist(), strict=True)
        with self._writing(backup_every=0) as db:
            numbers, time = count(last_number(db) + 1), now()
            rows = [
                Row(number, sample_id, "label", label, annotator, time)
                for number, (sample_id, label) in zip(numbers, pairs, strict=False)
            ]
            _append_answers(db, rows)

    def answer(
        self,
        sample_id: int,
        label: int | None,
        annotator: str,
        *,
        seen: int | None = None,
        votes: int = 1,
    ) -> None:
        """Append a person's answer; it is on the disk when this returns.

        Parameters
        ----------
        sample_id : int
            A sample that was asked for, answered before or not.
        label : int or None
            Its class; None if the person cannot tell, which sets the sample aside.
        annotator : str
            Who says so.
        seen : int, optional
            `Question.last` as the person saw it.
        votes : int, default 1
            People who must agree.

        Raises
        ------
        StaleError
            If somebody said something since; nothing is written then.
        """
        if self.answer_all([Answer(sample_id, label, annotator, seen)], votes):
            raise StaleError

    def answer_all(self, answers: Sequence[Answer], votes: int = 1) -> list[Answer]:
        """Append answers in their order, all or none of those that are not stale.

        Parameters
        ----------
        answers : sequence of Answer
            Of samples that were asked for.
        votes : int, default 1
            People who must agree.

        Returns
        -------
        list of Answer
            What was not written, since somebody said something after it was `seen`.
        """
        stale: list[Answer] = []
        rows: list[Row] = []
        with self._writing() as db:
            questions = questions_of(db, [answer.sample_id for answer in answers])
            first, time = last_number(db) + 1, now()
            for answer in answers:
                question = questions[answer.sample_id]
                if question.has_news_for(answer.seen):
                    stale.append(answer)
                    continue
                said = rows_of(answer, question, votes, first + len(rows), time)
                questions[answer.sample_id] = replace(
                    question, rows=question.rows + said
                )
                rows += said
            _append_answers(db, rows)
        return stale

    def withdraw(
        self,
        sample_id: int,
        annotator: str,
        *,
        seen: int | None = None,
        votes: int = 1,
    ) -> None:
        """Take an answer back, by a row of its own: the sample waits again.

        With more than one of `votes` it is the person's own vote, and what the others
        come to without it stands. What a closed cycle's training sees stays. Without an
        answer, or a vote of this person, to take back, nothing happens.

        Raises
        ------
        StaleError
            If somebody said something since this was `seen`; nothing is written then.
        """
        with self._writing() as db:
            question = questions_of(db, [sample_id])[sample_id]
            if question.has_news_for(seen):
                raise StaleError
            number = last_number(db) + 1
            rows = rows_of_withdrawal(annotator, question, votes, number, now())
            _append_answers(db, rows)

    def close(self, cycle: int) -> None:
        """Let what is answered by now be what the cycle's training sees, for good."""
        with self._writing(backup_every=0) as db:
            (last,) = db.execute(LAST_ANSWER, (cycle,)).fetchone()
            done = db.execute(
                "INSERT OR IGNORE INTO closing VALUES (?, ?)", (cycle, last or 0)
            )
            if done.rowcount:
                append(db, "closing", cycle, cycle)

    def knows_cycle(self, cycle: int) -> bool:
        """Tell whether the cycle's selection is recorded."""
        with self._transaction() as db:
            return self._knows(db, cycle)

    def last_cycle(self, before: int | None = None) -> int:
        """Return the last cycle, or that before another, whose selection is recorded.

        Without any it is 0.
        """
        query = (
            "SELECT coalesce(max(cycle), 0) FROM selection "
            "WHERE :before IS NULL OR cycle < :before"
        )
        with self._transaction() as db:
            (cycle,) = db.execute(query, {"before": before}).fetchone()
        return int(cycle)

    def asked_at(self, cycle: int) -> datetime:
        """Return when a cycle's selection was recorded."""
        with self._transaction() as db:
            query = "SELECT asked_at FROM selection WHERE cycle = ?"
            (time,) = db.execute(query, (cycle,)).fetchone()
        return datetime.fromisoformat(time)

    def selection(self, cycle: int) -> SampleIds:
        """Return the samples asked for in a cycle, in the order of preference."""
        return self._ids(
            "SELECT sample_id FROM request WHERE cycle = ? ORDER BY rank", cycle
        )

    def notes(self, cycle: int) -> dict[str, float]:
        """Return the strategy's record of a cycle's selection."""
        with self._transaction() as db:
            query = "SELECT notes FROM selection WHERE cycle = ?"
            (text,) = db.execute(query, (cycle,)).fetchone()
        notes: dict[str, float] = json.loads(text)
        return notes

    def requested(self, cycle: int | None = None) -> SampleIds:
        """Return every sample asked for up to a cycle, or ever, ascending."""
        if cycle is None:
            return self._ids("SELECT sample_id FROM request ORDER BY sample_id")
        return self._ids(
            "SELECT sample_id FROM request WHERE cycle <= ? ORDER BY sample_id", cycle
        )

    def memory(self, name: str, cycle: int) -> tuple[SampleIds, NDArray[np.int64]]:
        """Return what a strategy remembered last, up to a cycle.

        Returns
        -------
        sample_ids, values : ndarray, shape (n,), int64
            Ascending samples; all others have the value 0.
        """
        return self._pairs(
            "SELECT sample_id, value FROM memory WHERE name = :name AND cycle = ("
            "SELECT max(cycle) FROM selection, json_each(selection.remembered) AS own "
            "WHERE own.value = :name AND cycle <= :cycle) ORDER BY sample_id",
            {"name": name, "cycle": cycle},
        )

    def questions(self, *, after: int | None = None) -> list[Question]:
        """Return all that was ever asked, by cycle and rank, with what was said.

        Parameters
        ----------
        after : int, optional
            Only those of which something was said after this row.
        """
        with self._transaction() as db:
            changed = None
            if after is not None:
                query = "SELECT DISTINCT sample_id FROM answer WHERE number > ?"
                changed = [sample for (sample,) in db.execute(query, (after,))]
            return list(questions_of(db, changed).values())

    def closed_cycles(self) -> int:
        """Return the last cycle whose answers are closed; 0 without any."""
        with self._transaction() as db:
            query = "SELECT coalesce(max(cycle), 0) FROM closing"
            (cycle,) = db.execute(query).fetchone()
        return int(cycle)

    def unanswered(self) -> SampleIds:
        """Return the samples that wait for an answer, in the order asked."""
        return self._ids(
            "SELECT sample_id FROM request WHERE sample_id NOT IN (SELECT sample_id "
            f"FROM ({LATEST_NOW}) WHERE action != 'withdraw') ORDER BY cycle, rank"
        )

    def answered(self) -> SampleIds:
        """Return every sample that has a label now, ascending."""
        return self._ids(
            f"SELECT sample_id FROM ({LATEST_NOW}) WHERE action = 'label' "
            "ORDER BY sample_id"
        )

    def labeled(self, cycle: int) -> tuple[SampleIds, NDArray[np.int64]]:
        """Return the samples that a cycle's training sees, and their classes.

        All that are answered while the cycle is open. Of a sample's rows the last one
        counts: a label, unless it sets the sample aside or withdraws the one before.

        Returns
        -------
        sample_ids, labels : ndarray, shape (n,), int64
            Ascending samples.
        """
        return self._pairs(
            f"SELECT sample_id, label FROM ({LATEST_AS_OF}) WHERE action = 'label' "
            "ORDER BY sample_id",
            (cycle,),
        )

    def set_aside(self, cycle: int) -> SampleIds:
        """Return the samples that nobody could tell as of a cycle, ascending."""
        return self._ids(
            f"SELECT sample_id FROM ({LATEST_AS_OF}) WHERE action = 'set-aside' "
            "ORDER BY sample_id",
            cycle,
        )

    def counts(self, cycle: int) -> Counts:
        """Return what became of the samples asked for, as of a cycle."""
        labeled, _ = self.labeled(cycle)
        aside, asked = self.set_aside(cycle), self.requested(cycle)
        return Counts(len(labeled), len(aside), len(asked) - len(labeled) - len(aside))

    def _ids(self, query: str, *parameters: int) -> SampleIds:
        with self._transaction() as db:
            rows = db.execute(query, parameters).fetchall()
        return np.array(rows, dtype=np.int64).ravel()

    def _pairs(
        self, query: str, parameters: Any
    ) -> tuple[SampleIds, NDArray[np.int64]]:
        with self._transaction() as db:
            rows = db.execute(query, parameters).fetchall()
        table = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    @contextmanager
    def _writing(
        self, *, backup_every: float = BACKUP_EVERY
    ) -> Iterator[sqlite3.Connection]:
        """Give one transaction; put what was written away once more, beside."""
        with self._transaction("IMMEDIATE") as db:
            yield db
            written = db.total_changes
        if written:
            self._tidy(backup_every)

    @contextmanager
    def _transaction(self, kind: str = "DEFERRED") -> Iterator[sqlite3.Connection]:
        try:
            with connection(self.path) as db, db:
                db.execute(f"BEGIN {kind}")
                yield db
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            raise trouble(self.path, error) from None

    def _tidy(self, backup_every: float) -> None:
        """Renew the head beside the ledger and the backups; they lose no answer."""
        try:
            with self._tidying:
                write_head(head_file(self.path), self.head)
                if seconds_since_backup(self.path) >= backup_every:
                    back_up(self.path)
        except (DamageError, OSError, sqlite3.DatabaseError, UserError) as error:
            log.warning(
                "What was answered is in the label ledger %s, but its backup failed: "
                "%s; the older ones stay.",
                self.path,
                error,
            )

    @staticmethod
    def _knows(db: sqlite3.Connection, cycle: int) -> bool:
        query = "SELECT 1 FROM selection WHERE cycle = ?"
        return db.execute(query, (cycle,)).fetchone() is not None


def _identity_of(db: sqlite3.Connection) -> str:
    (identity,) = db.execute("SELECT fingerprint FROM shard").fetchone()
    return str(identity)


def _append_answers(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Append rows and their entry; without rows, none."""
    db.executemany("INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?)", rows)
    if rows:
        append(db, "answer", rows[0].number, rows[-1].number)


def _column(values: NDArray[Any] | None) -> Iterator[Any] | list[Any]:
    return repeat(None) if values is None else values.tolist()
