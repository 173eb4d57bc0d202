"""The ledger: which samples were asked for, when, and what was answered.

One SQLite file per client and campaign, the only durable thing a client has. Each
public method is one transaction, so a crash between any two statements leaves the
ledger as it was before or after, and loses no label.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count, repeat
from pathlib import Path

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
    asked_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS request (
    sample_id INTEGER PRIMARY KEY,
    cycle INTEGER NOT NULL REFERENCES selection (cycle),
    rank INTEGER NOT NULL,
    suggestion INTEGER,
    label INTEGER,
    annotator TEXT,
    answered_at TEXT
);
CREATE TABLE IF NOT EXISTS dormant (
    sample_id INTEGER PRIMARY KEY
);
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
        notes: Mapping[str, float] | None = None,
        dormant: SampleIds | None = None,
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
        notes : Mapping[str, float], optional
            The strategy's own record.
        dormant : ndarray, shape (m,), int64, optional
            Samples that the next query should leave alone, instead of those so far.
        """
        guesses = repeat(None) if suggestions is None else suggestions.tolist()
        rows = zip(sample_ids.tolist(), repeat(cycle), count(), guesses, strict=False)
        with self._transaction(write=True) as db:
            if self._knows(db, cycle):
                return
            db.execute(
                "INSERT INTO selection VALUES (?, ?, ?, ?)",
                (cycle, strategy, json.dumps(dict(notes or {})), _now()),
            )
            db.executemany(
                "INSERT INTO request (sample_id, cycle, rank, suggestion) "
                "VALUES (?, ?, ?, ?)",
                rows,
            )
            if dormant is not None:
                db.execute("DELETE FROM dormant")
                sleepers = zip(dormant.tolist(), strict=True)
                db.executemany("INSERT INTO dormant VALUES (?)", sleepers)

    def record_answers(
        self, sample_ids: SampleIds, labels: NDArray[np.int64], annotator: str
    ) -> None:
        """Store the classes of samples that were asked for, all or none."""
        rows = zip(
            labels.tolist(),
            repeat(annotator),
            repeat(_now()),
            sample_ids.tolist(),
            strict=False,
        )
        with self._transaction(write=True) as db:
            db.executemany(
                "UPDATE request SET label = ?, annotator = ?, answered_at = ? "
                "WHERE sample_id = ?",
                rows,
            )

    def knows_cycle(self, cycle: int) -> bool:
        """Tell whether the cycle's selection is recorded."""
        with self._transaction() as db:
            return self._knows(db, cycle)

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

    def requested(self) -> SampleIds:
        """Return every sample ever asked for, ascending."""
        return self._ids("SELECT sample_id FROM request ORDER BY sample_id")

    def dormant(self) -> SampleIds:
        """Return the samples that queries should leave alone, ascending."""
        return self._ids("SELECT sample_id FROM dormant ORDER BY sample_id")

    def unanswered(self) -> SampleIds:
        """Return the samples that wait for an answer, in the order asked."""
        return self._ids(
            "SELECT sample_id FROM request WHERE label IS NULL ORDER BY cycle, rank"
        )

    def labeled(self) -> tuple[SampleIds, NDArray[np.int64]]:
        """Return the answered samples, ascending, and their classes."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT sample_id, label FROM request WHERE label IS NOT NULL "
                "ORDER BY sample_id"
            ).fetchall()
        table = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _ids(self, query: str, *parameters: int) -> SampleIds:
        with self._transaction() as db:
            rows = db.execute(query, parameters).fetchall()
        return np.array(rows, dtype=np.int64).reshape(-1)

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
