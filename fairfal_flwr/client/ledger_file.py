"""The SQLite file of a ledger: its schema, how it comes to be, how it is checked."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fairfal_flwr.client.ledger_chain import DamageError, Head, append, verify
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import settle

__all__ = [
    "Summary",
    "code_of",
    "connection",
    "create",
    "inspect",
    "is_the_hosts",
    "migrate",
    "now",
    "place",
]

APPLICATION_ID = 0x4646414C  # "FFAL"
HEADER = 100
MAGIC = b"SQLite format 3\0"

# Seconds to wait for a lock of another process.
PATIENCE = 30.0

# An answer that was acknowledged is on the disk, also when the power fails.
PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA foreign_keys = ON",
)

# No index beside the tables' own trees, and no list of last numbers: what the chain
# reads is all that a query can read.
CREATION = (
    """CREATE TABLE entry (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    digest TEXT NOT NULL
)""",
    """CREATE TABLE shard (
    number INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL
)""",
    """CREATE TABLE selection (
    cycle INTEGER PRIMARY KEY,
    strategy TEXT NOT NULL,
    notes TEXT NOT NULL,
    remembered TEXT NOT NULL,
    asked_at TEXT NOT NULL
)""",
    """CREATE TABLE request (
    sample_id INTEGER PRIMARY KEY,
    cycle INTEGER NOT NULL REFERENCES selection (cycle),
    rank INTEGER NOT NULL,
    suggestion INTEGER,
    score REAL
)""",
    """CREATE TABLE memory (
    cycle INTEGER NOT NULL REFERENCES selection (cycle),
    name TEXT NOT NULL,
    sample_id INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (cycle, name, sample_id)
) WITHOUT ROWID""",
    """CREATE TABLE answer (
    number INTEGER PRIMARY KEY,
    sample_id INTEGER NOT NULL REFERENCES request (sample_id),
    action TEXT NOT NULL CHECK (action IN ('label', 'set-aside', 'withdraw', 'vote')),
    label INTEGER CHECK (
        CASE action
            WHEN 'label' THEN label IS NOT NULL
            WHEN 'vote' THEN TRUE
            ELSE label IS NULL
        END
    ),
    annotator TEXT NOT NULL,
    answered_at TEXT NOT NULL
)""",
    """CREATE TABLE closing (
    cycle INTEGER PRIMARY KEY,
    last_answer INTEGER NOT NULL
)""",
    """CREATE TABLE restoration (
    entry INTEGER PRIMARY KEY,
    restored_at TEXT NOT NULL
)""",
)

# What leads from each version of the schema to the next.
MIGRATIONS: tuple[tuple[str, ...], ...] = (CREATION,)

# What says something about the host, not about the content of the file.
ENVIRONMENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


class Summary(NamedTuple):
    """What a good ledger holds.

    Parameters
    ----------
    head : Head
        The end of its chain.
    num_answers : int
        Rows, those that another took the place of included.
    """

    head: Head
    num_answers: int


@contextmanager
def connection(path: Path, access: str = "mode=rw") -> Iterator[sqlite3.Connection]:
    """Open a database that exists.

    Parameters
    ----------
    path : Path
        The file; it is never created.
    access : str, default "mode=rw"
        SQLite's URI parameters. "mode=ro" writes nothing into the database or its log;
        "immutable=1" is for a file that nobody writes.
    """
    uri = f"{path.absolute().as_uri()}?{access}"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as db:
        for pragma in PRAGMAS:
            db.execute(pragma)
        yield db


def create(path: Path, fingerprint: str) -> None:
    """Make an empty ledger, complete at the moment when it appears.

    Of several processes that do this at the same time one wins, and all succeed.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    fingerprint : str
        Of the shard.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with place(path) as temporary:
        temporary.touch()
        with connection(temporary) as db:
            db.execute("PRAGMA journal_mode = WAL")
            with db:
                db.execute("BEGIN IMMEDIATE")
                _apply_migrations(db)
                db.execute("INSERT INTO shard VALUES (1, ?)", (fingerprint,))
                append(db, "shard", 1, 1)


@contextmanager
def place(path: Path) -> Iterator[Path]:
    """Give a path whose file appears as `path`, complete, if there is none by then."""
    with tempfile.TemporaryDirectory(
        prefix=f".{path.stem}-", dir=path.parent
    ) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        settle(temporary)
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    settle(path.parent)


def inspect(path: Path, access: str = "mode=ro") -> Summary:
    """Read all of a ledger and compare it with its chain; nothing is written.

    Parameters
    ----------
    path : Path
        The file.
    access : str, default "mode=ro"
        As for `connection`.

    Raises
    ------
    DamageError
        If the content is not what was recorded.
    UserError
        If a newer version of FairFAL wrote the file.
    sqlite3.OperationalError
        If the host does not let it be read.
    """
    _check_header(path)
    try:
        with connection(path, access) as db:
            db.execute("BEGIN")
            _check_schema(db, path)
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise DamageError(verdict)
            (num_answers,) = db.execute("SELECT count(*) FROM answer").fetchone()
            return Summary(verify(db), num_answers)
    except sqlite3.DatabaseError as error:
        if code_of(error) in ENVIRONMENT:
            raise
        raise DamageError(error) from None


def migrate(path: Path) -> None:
    """Bring a ledger of an older version to this one's schema, all or nothing."""
    with connection(path) as db:
        if _version(db) < len(MIGRATIONS):
            with db:
                db.execute("BEGIN IMMEDIATE")
                _apply_migrations(db)


def is_the_hosts(error: Exception) -> bool:
    """Tell whether an error says something about the host, not about the content."""
    return isinstance(error, OSError) or code_of(error) in ENVIRONMENT


def now() -> str:
    """Return the time for a row."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _apply_migrations(db: sqlite3.Connection) -> None:
    for statement in (s for step in MIGRATIONS[_version(db) :] for s in step):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(HEADER)
    if not header:
        raise DamageError("it is empty (0 bytes)")
    if len(header) < HEADER or not header.startswith(MAGIC):
        raise DamageError("it is no SQLite database")
    if int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise DamageError("it is a database of another application")


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    version = _version(db)
    if version > len(MIGRATIONS):
        raise UserError(
            f"The label ledger {path} has schema version {version}, from a newer "
            f"FairFAL; this one knows up to {len(MIGRATIONS)}; update FairFAL here."
        )
    if version < 1 or _schema(db) != _schema_of(version):
        raise DamageError("its tables are not those of a ledger")


@cache
def _schema_of(version: int) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in (s for step in MIGRATIONS[:version] for s in step):
            db.execute(statement)
        return _schema(db)


def _schema(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    return db.execute(query).fetchall()


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def code_of(error: Exception) -> int | None:
    """Return SQLite's primary code; None where Python itself found the fault."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
