"""The chain of a ledger: each transaction's rows, hashed on top of the one before.

    digest_n = SHA-256(digest_(n-1), number, kind, first, last, rows)

So the last digest stands for the whole content, in its order. Whoever knows it, with
the number of its entry, can tell whether a ledger still contains what it had then.

Entries are numbered from 1 without a gap, but for one: a restoration takes a number
after all that were known, so those that a restored ledger lacks stay without an entry
for good and are never taken for others.
"""

import hashlib
import logging
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairfal_flwr.files import replacing

__all__ = [
    "DamageError",
    "Head",
    "append",
    "head_of",
    "read_head",
    "verify",
    "write_head",
]

log = logging.getLogger("fairfal.client")


SHORT = 15  # hexadecimal digits that a message's 64 bits hold


class Head(NamedTuple):
    """The end of a chain; without entries, nothing is known.

    Parameters
    ----------
    entries : int
        The number of the last one, which is how many there ever were.
    digest : str
        Of the last one, hexadecimal; its start is enough to tell.
    """

    entries: int = 0
    digest: str = ""

    @property
    def numbers(self) -> list[int]:
        """Entries, and the start of the digest as a number, for a message."""
        return [self.entries, int(self.digest[:SHORT] or "0", 16)]

    @classmethod
    def from_numbers(cls, numbers: Sequence[int] | None) -> "Head":
        """Return the head with the start of a digest; without numbers, unknown."""
        if numbers is None:
            return cls()
        entries, start = numbers
        return cls(entries, f"{start:0{SHORT}x}")


UNKNOWN = Head()


class DamageError(Exception):
    """Why a file is not the ledger that was written, in half a sentence."""

    def __init__(self, reason: object) -> None:
        # SQLite quotes from the file, line breaks and all.
        super().__init__(" ".join(str(reason).split())[:200])


class Rows(NamedTuple):
    """The rows of a table that an entry covers: all whose key is in its range."""

    table: str
    key: str
    columns: str
    order: str


# A column that comes later belongs to a kind of its own, or old digests would change.
COVERED = {
    "shard": (Rows("shard", "number", "fingerprint", "number"),),
    "selection": (
        Rows("selection", "cycle", "strategy, notes, remembered, asked_at", "cycle"),
        Rows("request", "cycle", "sample_id, rank, suggestion, score", "cycle, rank"),
        Rows("memory", "cycle", "name, sample_id, value", "cycle, name, sample_id"),
    ),
    "answer": (
        Rows(
            "answer",
            "number",
            "sample_id, action, label, annotator, answered_at",
            "number",
        ),
    ),
    "closing": (Rows("closing", "cycle", "last_answer", "cycle"),),
    "restoration": (Rows("restoration", "entry", "restored_at", "entry"),),
}


def append(
    db: sqlite3.Connection, kind: str, first: int, last: int, *, number: int = 0
) -> None:
    """Cover the rows that this transaction wrote by a new entry.

    Parameters
    ----------
    db : Connection
        In the transaction that wrote them.
    kind : str
        One of `COVERED`.
    first, last : int
        The range of their key: cycles, or numbers of answers.
    number : int, optional
        Of the entry, where it is not the next one: a restoration's.
    """
    before = head_of(db)
    rows = [_read(db, part, first, last) for part in COVERED[kind]]
    number = number or before.entries + 1
    digest = _digest(before.digest, number, kind, first, last, rows)
    db.execute(
        "INSERT INTO entry VALUES (?, ?, ?, ?, ?)", (number, kind, first, last, digest)
    )


def head_of(db: sqlite3.Connection) -> Head:
    """Return the end of the chain as it is written, unchecked."""
    query = "SELECT number, digest FROM entry ORDER BY number DESC LIMIT 1"
    found = db.execute(query).fetchone()
    return Head(*found) if found else Head()


def verify(db: sqlite3.Connection) -> Head:
    """Compute the whole chain from the rows.

    Returns
    -------
    Head
        Its end.

    Raises
    ------
    DamageError
        If a row is not what was recorded, or one is missing or too many.
    """
    tables = {
        kind: [_Table(db, part) for part in parts] for kind, parts in COVERED.items()
    }
    number, digest = 0, ""
    for entry in db.execute("SELECT * FROM entry ORDER BY number").fetchall():
        expected, (number, kind, first, last, written) = number + 1, entry
        try:
            rows = [table.between(first, last) for table in tables[kind]]
        except (KeyError, TypeError):
            raise DamageError(f"entry {number} makes no sense") from None
        if number != expected and kind != "restoration":
            raise DamageError(f"entry {expected} is missing")
        digest = _digest(digest, number, kind, first, last, rows)
        if written != digest:
            raise DamageError(f"entry {number} ({kind}) is not what was recorded")
    for table in (table for kind in tables.values() for table in kind):
        table.check_all_covered(db)
    return Head(number, digest)


def read_head(path: Path) -> Head:
    """Return the last head that was written beside a ledger.

    A file that is not whole counts as none, with a warning: it guards the ledger and
    holds nothing itself.
    """
    try:
        words = path.read_bytes().decode(errors="replace").split()
    except (FileNotFoundError, NotADirectoryError):
        return Head()
    if len(words) == 3 and words[2] == _check_digits(*words[:2]):
        return Head(int(words[0]), words[1])
    log.warning("%s is damaged; it is written anew with the next answer.", path)
    return Head()


def write_head(path: Path, head: Head) -> None:
    """Put a head in place of the one beside a ledger."""
    words = str(head.entries), head.digest
    with replacing(path) as temporary:
        temporary.write_text(" ".join((*words, _check_digits(*words))) + "\n")


class _Table:
    """All rows that one part of an entry can cover, in their order."""

    def __init__(self, db: sqlite3.Connection, part: Rows) -> None:
        self.part = part
        self.rows = _read(db, part, -(2**63), 2**63 - 1)
        self.keys = [row[0] for row in self.rows]
        self.num_covered = 0

    def between(self, first: int, last: int) -> list[tuple[Any, ...]]:
        start = bisect_left(self.keys, first)
        found = self.rows[start : bisect_right(self.keys, last, start)]
        self.num_covered += len(found)
        return found

    def check_all_covered(self, db: sqlite3.Connection) -> None:
        query = f"SELECT count(*) FROM {self.part.table}"
        surplus = db.execute(query).fetchone()[0] - self.num_covered
        if surplus:
            raise DamageError(f"{surplus} row(s) of {self.part.table} are no entry's")


def _read(
    db: sqlite3.Connection, part: Rows, first: int, last: int
) -> list[tuple[Any, ...]]:
    query = (
        f"SELECT {part.key}, {part.columns} FROM {part.table} "
        f"WHERE {part.key} BETWEEN ? AND ? ORDER BY {part.order}"
    )
    return db.execute(query, (first, last)).fetchall()


def _digest(
    before: str, number: int, kind: str, first: int, last: int, rows: list[Any]
) -> str:
    # `ascii` of integers, floats, strings and None is one text for one value, in every
    # version of Python; what SQLite prints a float as is not.
    text = ascii((before, number, kind, first, last, rows))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_digits(entries: str, digest: str) -> str:
    return hashlib.sha256(f"{entries} {digest}".encode()).hexdigest()[:16]
