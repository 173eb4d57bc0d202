"""Copies of a ledger beside it, what they lack, and how one takes its place."""

import shlex
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import time
from typing import NamedTuple

from fairfal_flwr.client.ledger_chain import (
    DamageError,
    Head,
    append,
    head_of,
    read_head,
    write_head,
)
from fairfal_flwr.client.ledger_file import (
    Summary,
    connection,
    inspect,
    now,
    place,
)
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import settle

__all__ = [
    "Backup",
    "Restoration",
    "age",
    "back_up",
    "head_file",
    "newest_good",
    "offer",
    "restore",
    "seconds_since_backup",
]

KEPT = 3
STALE = 3600.0  # seconds after which what a killed process left may go


class Backup(NamedTuple):
    """A copy that was read and compared with its chain, or the ledger itself."""

    path: Path
    summary: Summary


class Restoration(NamedTuple):
    """What `restore` did.

    Parameters
    ----------
    source : Backup
        What the ledger holds now; its own path if it was good.
    aside : Path or None
        The new name of what stood there.
    num_lost : int
        Entries that were known and are given up.
    """

    source: Backup
    aside: Path | None
    num_lost: int


def head_file(path: Path) -> Path:
    """Return the file beside a ledger that holds its last head."""
    return path.with_suffix(".head")


def back_up(path: Path) -> None:
    """Copy a ledger, check the copy, and drop the oldest of more than `KEPT`.

    Parameters
    ----------
    path : Path
        The ledger; others may write into it meanwhile.

    Raises
    ------
    DamageError
        If the copy does not fit its chain; then the older ones stay.
    OSError, sqlite3.DatabaseError
        If it cannot be written.
    """
    folder = _folder(path)
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=folder) as made:
        copy = Path(made) / path.name
        copy.touch()
        with connection(path) as source, connection(copy) as target:
            source.backup(target)
        head = inspect(copy, "immutable=1").head
        settle(copy)
        copy.replace(folder / f"{path.stem}-{head.entries}{path.suffix}")
    settle(folder)
    for old in _copies(path)[KEPT:]:
        old.unlink(missing_ok=True)
    _sweep(path.parent, path)
    _sweep(folder, path)


def seconds_since_backup(path: Path) -> float:
    """Return the age of the newest backup; infinite without one."""
    newest = _copies(path)[:1]
    return abs(time() - newest[0].stat().st_mtime) if newest else float("inf")


def newest_good(path: Path) -> Backup | None:
    """Return the newest backup of a ledger that fits its chain."""
    for copy in _copies(path):
        if backup := _good(copy, "immutable=1"):
            return backup
    return None


def offer(path: Path, server: Head) -> str:
    """Say what can take the place of a ledger, how old it is, and what it lacks.

    Parameters
    ----------
    path : Path
        The ledger, which cannot be used.
    server : Head
        What the server knows of it.
    """
    written = read_head(head_file(path)).entries
    known = max(server.entries, written)
    command = f"fairfal ledger restore {shlex.quote(str(path))}"
    if server.entries > written:
        command += f" --known {server.entries}"
    best = _best(path)
    if best is None:
        return (
            f"There is no good backup of it in {_folder(path)}; "
            f"`{command} --backup FILE` puts one of yours in its place."
        )
    lost = known - best.summary.head.entries
    lacks = f"lacks the last {lost} of {known} entries" if lost > 0 else "lacks nothing"
    if not known:
        lacks = "lacks nobody knows what"
    if best.path == path:
        return f"No backup has more; it {lacks}; `{command}` goes on without them."
    return (
        f"The newest good backup, {best.path}, is {age(best.path)} old and {lacks}; "
        f"`{command}` puts it in its place."
    )


def restore(path: Path, backup: Path | None = None, *, known: int = 0) -> Restoration:
    """Put a backup in the place of a ledger; what stands there is only renamed.

    Nobody may use the ledger meanwhile.

    Parameters
    ----------
    path : Path
        The ledger.
    backup : Path, optional
        What to restore; else the good one with the most entries, the ledger itself
        included.
    known : int, default 0
        How many entries the server knows. Those that are lost are given up: their
        numbers stay empty.

    Raises
    ------
    UserError
        If nothing can be restored, or nothing needs to be.
    """
    source = _chosen(path, backup)
    known = max(known, read_head(head_file(path)).entries)
    lost = max(0, known - source.summary.head.entries)
    if source.path == path:
        if not lost:
            raise UserError(
                f"Nothing to restore: the label ledger {path} is good and has all "
                f"{source.summary.head.entries} entries that are known."
            )
        _give_up(path, known)
        aside = None
    else:
        aside = _take_the_place(path, source.path, known if lost else 0)
    with connection(path) as db:
        head = head_of(db)
    write_head(head_file(path), head)
    return Restoration(source, aside, lost)


def age(path: Path) -> str:
    """Return for people how long ago a file was written."""
    seconds = max(0, int(time() - path.stat().st_mtime))
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _folder(path: Path) -> Path:
    return path.parent / "backups"


def _copies(path: Path) -> list[Path]:
    """Return the backups of a ledger, the newest first."""
    copies = _folder(path).glob(f"{path.stem}-*{path.suffix}")
    return sorted(copies, key=lambda copy: copy.stat().st_mtime_ns, reverse=True)


def _good(path: Path, access: str) -> Backup | None:
    try:
        return Backup(path, inspect(path, access))
    except (DamageError, UserError, OSError, sqlite3.DatabaseError):
        return None


def _best(path: Path) -> Backup | None:
    """Return what holds the most, the ledger itself before a backup with as much."""
    backups = (_good(copy, "immutable=1") for copy in _copies(path))
    good = [one for one in (_good(path, "mode=ro"), *backups) if one]
    return max(good, key=lambda one: one.summary.head.entries, default=None)


def _chosen(path: Path, backup: Path | None) -> Backup:
    if backup is None:
        if best := _best(path):
            return best
        raise UserError(
            f"There is no good backup of {path} in {_folder(path)}; name one by "
            "`--backup FILE`."
        )
    try:
        return Backup(backup, inspect(backup, "immutable=1"))
    except (DamageError, OSError, sqlite3.DatabaseError) as error:
        raise UserError(f"Cannot restore {backup}: {error}.") from None


def _give_up(path: Path, known: int) -> None:
    """Go on after all numbers that are known, whatever is lost of them."""
    with connection(path) as db, db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO restoration VALUES (?, ?)", (known + 1, now()))
        append(db, "restoration", known + 1, known + 1, number=known + 1)


def _take_the_place(path: Path, backup: Path, given_up: int) -> Path | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with place(path) as temporary:
        shutil.copyfile(backup, temporary)
        if given_up:
            _give_up(temporary, given_up)
        return _put_aside(path)


def _put_aside(path: Path) -> Path | None:
    """Rename a ledger and SQLite's files beside it; nothing of it is lost."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.name}.aside-{n}") for n in count(1))
    aside = next(name for name in names if not name.exists())
    for ending in ("-wal", "-shm", ""):
        file = path.with_name(path.name + ending)
        if file.exists():
            file.rename(aside.with_name(aside.name + ending))
    return aside


def _sweep(folder: Path, path: Path) -> None:
    """Remove what processes that were killed left half made."""
    for left in folder.glob(f".{path.stem}-*"):
        with suppress(OSError):  # others make some, and sweep, meanwhile
            if time() - left.stat().st_mtime < STALE:
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
