"""What a site counts for itself over all campaigns: labels asked for, noisy releases.

A server can begin a new campaign, with a new ledger, whenever it likes. This file is
the site's own: no run config says where it is, and no request empties it.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from fairfal_flwr.errors import RefusalError, UserError

__all__ = ["SiteBook"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS release (
    client INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (client, key)
);
CREATE TABLE IF NOT EXISTS asked (
    client INTEGER NOT NULL,
    campaign TEXT NOT NULL,
    cycle INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (client, campaign, cycle)
);
"""


class SiteBook:
    """The counts of one client, and the secret that its noise comes from.

    Parameters
    ----------
    path : Path
        An SQLite file, which all clients of a host may share; made where it is missing.
    client : int
        The client's index.
    """

    def __init__(self, path: Path, client: int) -> None:
        self.path = path
        self.client = client

    def ask_labels(self, campaign: str, cycle: int, number: int, most: int) -> None:
        """Count the labels that a cycle asks for, once.

        Raises
        ------
        RefusalError
            If they are more than `most` with those of all other cycles.
        """
        asked = self.client, campaign, cycle, number
        with self._transaction() as db:
            query = "INSERT OR IGNORE INTO asked VALUES (?, ?, ?, ?)"
            is_new = db.execute(query, asked).rowcount
            query = "SELECT sum(number) FROM asked WHERE client = ?"
            (total,) = db.execute(query, (self.client,)).fetchone()
            if is_new and total > most:
                raise RefusalError(
                    f"the site's policy, `labels`: {number} more are too many"
                )

    def release(self, content: bytes, most: int | None) -> np.random.Generator:
        """Count a noisy release, once, and return what its noise is drawn from.

        The same content has the same noise whenever it is released again, which
        reveals nothing new and is not counted; any other has noise of its own.

        Parameters
        ----------
        content : bytes
            A digest of all that the release is made from.
        most : int, optional
            Releases of this client in all; without it, any number.

        Raises
        ------
        RefusalError
            If there were as many already.
        """
        with self._transaction() as db:
            secret, *_ = db.execute("SELECT value FROM secret").fetchone()
            key = hmac.digest(secret, b"%d:" % self.client + content, hashlib.sha256)
            query = "INSERT OR IGNORE INTO release VALUES (?, ?)"
            is_new = db.execute(query, (self.client, key)).rowcount
            query = "SELECT count(*) FROM release WHERE client = ?"
            (total,) = db.execute(query, (self.client,)).fetchone()
            if is_new and most is not None and total > most:
                raise RefusalError(
                    "the site's policy, `noisy-releases`: no more are made"
                )
        seed = hmac.digest(secret, b"noise:" + key, hashlib.sha256)
        return np.random.Generator(np.random.Philox(int.from_bytes(seed)))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the file, locked for writing; what is raised undoes what was done."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, mode=0o600))
            with closing(sqlite3.connect(self.path, timeout=30)) as db, db:
                db.execute("BEGIN IMMEDIATE")
                for table in SCHEMA.split(";"):
                    db.execute(table)
                db.execute(
                    "INSERT INTO secret SELECT ? WHERE NOT EXISTS "
                    "(SELECT 1 FROM secret)",
                    (secrets.token_bytes(32),),
                )
                yield db
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"Cannot write the site's counts {self.path}: {error}; set "
                "`FAIRFAL_HOME` to a folder that can be written."
            ) from None
