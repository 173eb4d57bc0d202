"""The ledger: which samples were asked for, when, and what was answered.

One SQLite file per client and campaign, the only durable thing a client has. Each
public method is one transaction, so a crash between any two statements leaves the
ledger as it was before or after, and loses no label.

A cycle is closed when the server moves on to its training. What was answered by then is
what the cycle's training sees, in every round and in every repetition of a request;
what comes later counts from the next cycle on.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.errors import UserError

__all__ = ["Ledger"]

SampleIds = NDArray[np.int64]

SCHEMA = """
CREATE TABLE IF NOT EXISTS shard (
    fingerprint TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS selection (
    cycle INTEGER PRIMARY KEY,
    strategy TEXT NOT NULL,
    notes TEXT NOT NULL,
    remembered TEXT NOT NULL,
    asked_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS request (
    sample_id INTEGER PRIMARY KEY,
    cycle INTEGER NOT NULL REFERENCES selection (cycle),
    rank INTEGER NOT NULL,
    suggestion INTEGER,
    score REAL
);
CREATE TABLE IF NOT EXISTS answer (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    sample_id INTEGER NOT NULL REFERENCES request (sample_id),
    label INTEGER NOT NULL,
    annotator TEXT NOT NULL,
    answered_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS closing (
    cycle INTEGER PRIMARY KEY,
    last_answer INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS memory (
    name TEXT NOT NULL,
    cycle INTEGER NOT NULL REFERENCES selection (cycle),
    sample_id INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (name, cycle, sample_id)
);
"""

# The last answer that a cycle's training sees; all answers while it is open. A cycle
# that was never closed itself, because the client took no part, ends with a later one.
LAST_ANSWER = """
    SELECT coalesce(
        (SELECT min(last_answer) FROM closing WHERE cycle >= ?),
        (SELECT max(number) FROM answer)
    )
"""


class Ledger:
    """The requests and answers of one client in one campaign.

    Parameters
    ----------
    path : Path
        The SQLite file; created with its folder where it is missing.
    fingerprint : str
        Of the client's shard. A ledger belongs to one shard.

    Raises
    ------
    UserError
        If the file cannot be written or belongs to another shard.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=30)) as db:
                db.executescript("PRAGMA journal_mode = WAL;" + SCHEMA)
            with self._transaction(write=True) as db:
                self._claim(db, fingerprint)
        except (OSError, sqlite3.DatabaseError) as error:
            raise UserError(
                f"Cannot write the label ledger {path}: {error}; set `state-dir` to a "
                "folder that can be written."
            ) from None

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
        with self._transaction(write=True) as db:
            if self._knows(db, cycle):
                return
            facts = json.dumps(dict(notes or {})), json.dumps(list(memory or {}))
            db.execute(
                "INSERT INTO selection VALUES (?, ?, ?, ?, ?)",
                (cycle, strategy, *facts, _now()),
            )
            db.executemany("INSERT INTO request VALUES (?, ?, ?, ?, ?)", rows)
            for name, (samples, values) in (memory or {}).items():
                db.executemany(
                    "INSERT INTO memory VALUES (?, ?, ?, ?)",
                    zip(
                        repeat(name),
                        repeat(cycle),
                        samples.tolist(),
                        values.tolist(),
                        strict=False,
                    ),
                )

    def record_answers(
        self, sample_ids: SampleIds, labels: NDArray[np.int64], annotator: str
    ) -> None:
        """Append the classes of samples that were asked for, all or none."""
        rows = zip(
            sample_ids.tolist(),
            labels.tolist(),
            repeat(annotator),
            repeat(_now()),
            strict=False,
        )
        with self._transaction(write=True) as db:
            db.executemany(
                "INSERT INTO answer (sample_id, label, annotator, answered_at) "
                "VALUES (?, ?, ?, ?)",
                rows,
            )

    def close(self, cycle: int) -> None:
        """Let what is answered by now be what the cycle's training sees, for good."""
        with self._transaction(write=True) as db:
            (last,) = db.execute(LAST_ANSWER, (cycle,)).fetchone()
            db.execute(
                "INSERT OR IGNORE INTO closing VALUES (?, ?)", (cycle, last or 0)
            )

    def knows_cycle(self, cycle: int) -> bool:
        """Tell whether the cycle's selection is recorded."""
        with self._transaction() as db:
            return self._knows(db, cycle)

    def last_cycle(self) -> int:
        """Return the last cycle whose selection is recorded; 0 without any."""
        with self._transaction() as db:
            query = "SELECT coalesce(max(cycle), 0) FROM selection"
            (cycle,) = db.execute(query).fetchone()
        return int(cycle)

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

    def unanswered(self) -> SampleIds:
        """Return the samples that wait for an answer, in the order asked."""
        return self._ids(
            "SELECT sample_id FROM request WHERE sample_id NOT IN "
            "(SELECT sample_id FROM answer) ORDER BY cycle, rank"
        )

    def answered(self) -> SampleIds:
        """Return every sample that has an answer, ascending."""
        return self._ids("SELECT DISTINCT sample_id FROM answer ORDER BY sample_id")

    def labeled(self, cycle: int) -> tuple[SampleIds, NDArray[np.int64]]:
        """Return the samples that a cycle's training sees, and their classes.

        All that are answered while the cycle is open. Of two answers the later counts.

        Returns
        -------
        sample_ids, labels : ndarray, shape (n,), int64
            Ascending samples.
        """
        return self._pairs(
            "SELECT sample_id, label FROM answer WHERE number IN ("
            f"SELECT max(number) FROM answer WHERE number <= ({LAST_ANSWER}) "
            "GROUP BY sample_id) ORDER BY sample_id",
            (cycle,),
        )

    def _ids(self, query: str, *parameters: int) -> SampleIds:
        with self._transaction() as db:
            rows = db.execute(query, parameters).fetchall()
        return np.array(rows, dtype=np.int64).reshape(-1)

    def _pairs(
        self, query: str, parameters: Any
    ) -> tuple[SampleIds, NDArray[np.int64]]:
        with self._transaction() as db:
            rows = db.execute(query, parameters).fetchall()
        table = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as db, db:
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield db

    def _claim(self, db: sqlite3.Connection, fingerprint: str) -> None:
        (known,) = db.execute("SELECT max(fingerprint) FROM shard").fetchone()
        if known is None:
            db.execute("INSERT INTO shard VALUES (?)", (fingerprint,))
        elif known != fingerprint:
            raise UserError(
                f"The label ledger {self.path} belongs to images with fingerprint "
                f"{known}, found {fingerprint}; point `state-dir` elsewhere or restore "
                "the images."
            )

    @staticmethod
    def _knows(db: sqlite3.Connection, cycle: int) -> bool:
        query = "SELECT 1 FROM selection WHERE cycle = ?"
        return db.execute(query, (cycle,)).fetchone() is not None


def _column(values: NDArray[Any] | None) -> Iterator[Any] | list[Any]:
    return repeat(None) if values is None else values.tolist()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
