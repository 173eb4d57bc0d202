"""Whether a ledger can be used, and the one line that says why not."""

import errno
import sqlite3
from pathlib import Path

from fairfal_flwr.client import ledger_file
from fairfal_flwr.client.ledger_backups import head_file, offer
from fairfal_flwr.client.ledger_chain import (
    UNKNOWN,
    DamageError,
    Head,
    head_of,
    read_head,
)
from fairfal_flwr.client.ledger_file import Summary, connection, inspect
from fairfal_flwr.errors import UserError

__all__ = ["check_contains", "check_never_was", "examine", "trouble"]


def examine(path: Path, server: Head = UNKNOWN) -> Summary:
    """Read all of a ledger and compare it with what is known; nothing is written.

    Parameters
    ----------
    path : Path
        A ledger that exists.
    server : Head, optional
        What the server knows of it; without entries, nothing.

    Returns
    -------
    Summary
        What it holds.

    Raises
    ------
    UserError
        If it is damaged, or an old copy, or cannot be read.
    """
    try:
        found = inspect(path)
        # Written after each answer, so it is never ahead of the ledger that it is of.
        check_contains(path, read_head(head_file(path)), "its own record", server)
        check_contains(path, server)
    except DamageError as damage:
        raise _damaged(path, damage, server) from None
    except (OSError, sqlite3.DatabaseError) as error:
        raise trouble(path, error, server) from None
    return found


def check_never_was(path: Path, server: Head) -> None:
    """Make sure that a missing ledger has not been there before."""
    known = max(server.entries, read_head(head_file(path)).entries)
    if known:
        raise UserError(
            f"The label ledger {path} is missing; it had {known} entries. Nothing was "
            f"created. {offer(path, server)}"
        )


def check_contains(
    path: Path, head: Head, who: str = "the server", server: Head | None = None
) -> None:
    """Make sure that a ledger still has what it had when it had some head.

    Parameters
    ----------
    path : Path
        The ledger.
    head : Head
        What is known; without entries, nothing.
    who : str, default "the server"
        Who knows it.
    server : Head, optional
        What the server knows, where that is not `head`.

    Raises
    ------
    UserError
        If the ledger is an old copy or another one.
    """
    if not head.entries:
        return
    with connection(path, "mode=ro") as db:
        last = head_of(db)
        query = "SELECT digest FROM entry WHERE number = ?"
        entry = db.execute(query, (min(head.entries, last.entries),)).fetchone()
    if last.entries < head.entries:
        found = f"it has {last.entries} entries, but {who} knows {head.entries}"
    elif entry and not entry[0].startswith(head.digest):  # without one, it is given up
        found = f"entry {head.entries} is not the one that {who} knows"
    else:
        return
    raise UserError(
        f"The label ledger {path} is an old copy, or another: {found}. It was left as "
        f"it is. {offer(path, head if server is None else server)}"
    )


def trouble(path: Path, error: Exception, server: Head = UNKNOWN) -> Exception:
    """Return the one line for an error of a ledger, or a defect's error itself."""
    code = ledger_file.code_of(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(
            f"The label ledger {path} is locked: another process has held it for "
            f"{ledger_file.PATIENCE:g} s; nothing was written, repeat the request."
        )
    if code == sqlite3.SQLITE_FULL or _is_full(error):
        return UserError(
            f"Cannot write the label ledger {path}: the disk is full; nothing was "
            "written, make room and repeat the request."
        )
    if ledger_file.is_the_hosts(error):
        return UserError(
            f"Cannot use the label ledger {path}: {error}; set `state-dir` to a "
            "folder that can be written."
        )
    if code in (None, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, DamageError(error), server)
    return error


def _damaged(path: Path, why: DamageError, server: Head) -> UserError:
    return UserError(
        f"The label ledger {path} is damaged: {why}. It was left as it is. "
        f"{offer(path, server)}"
    )


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC
