"""What of a run is known only where its images and its clients' ledgers are."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.client.ledger_file import connection
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_image_set, partition_table
from fairfal_flwr.data.partition import partition_rows
from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import ledger_file
from fairfal_flwr.report.facts import Choice, Facts
from fairfal_flwr.runs.reader import Run

__all__ = ["facts_of"]


@dataclass(frozen=True)
class _Book:
    """What one client's ledger says: whose images, and in each cycle which of them."""

    identity: str
    asked: dict[int, NDArray[np.int64]]
    notes: dict[int, dict[str, float]]


def facts_of(run: Run) -> Facts:
    """Return what images and ledgers say of a run, or why they say nothing.

    A simulation has both on one machine. In a deployed run they stay at the sites.
    """
    if run.config is None:
        return Facts(missing=("Its configuration is not in its folder.",))
    try:
        config = RunConfig.from_flat(run.config)
        counts, names = partition_table(config.image_spec(), config.partition_spec())
    except UserError as error:
        return Facts(missing=(f"The images cannot be counted here: {error}",))
    try:
        books = _books(config, run.folder.name)
        asked = _asked(config, counts, books)
    except UserError as error:
        why = f"Which classes were asked for cannot be told here: {error}"
        return Facts(counts, names, missing=(why,))
    identities = "\n".join(book.identity for book in books)
    return Facts(
        counts,
        names,
        asked,
        _choices(books),
        hashlib.sha256(identities.encode()).hexdigest()[:16],
    )


def _books(config: RunConfig, campaign: str) -> list[_Book]:
    paths = [
        ledger_file(config.state_dir, campaign, client)
        for client in range(config.num_clients)
    ]
    if not any(path.exists() for path in paths):
        raise UserError(
            f"no ledger of it is in {paths[0].parent}. Those of a deployed run stay at "
            "its sites, and with them which images were asked for."
        )
    return [_read_book(path) for path in paths]


def _read_book(path: Path) -> _Book:
    with _readable(path), connection(path, "mode=ro") as db:
        ((identity,),) = db.execute("SELECT fingerprint FROM shard LIMIT 1").fetchall()
        notes = dict(db.execute("SELECT cycle, notes FROM selection ORDER BY cycle"))
        rows = db.execute("SELECT cycle, sample_id FROM request").fetchall()
        found = np.array(rows, dtype=np.int64).reshape(-1, 2)
        asked = {cycle: found[found[:, 0] == cycle, 1] for cycle in notes}
        return _Book(identity, asked, {at: json.loads(t) for at, t in notes.items()})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def _asked(
    config: RunConfig, counts: NDArray[np.int64], books: list[_Book]
) -> dict[int, NDArray[np.int64]]:
    """Count what was asked for by its true class."""
    image_set = load_image_set(config.image_spec())
    dealt, _ = partition_rows(config.image_spec(), config.partition_spec())
    assert image_set.train_labels is not None  # they were counted
    labels = image_set.train_labels.numpy()
    asked: dict[int, NDArray[np.int64]] = {}
    for client, (book, rows) in enumerate(zip(books, dealt, strict=True)):
        known = rows if image_set.sample_ids is None else image_set.sample_ids[rows]
        order = np.argsort(known)
        for cycle, sample_ids in book.asked.items():
            places = np.searchsorted(known, sample_ids, sorter=order)
            found = order[places.clip(max=len(known) - 1)]
            if (known[found] != sample_ids).any():
                raise UserError(
                    f"client {client} asked for images that `data.name` does not deal "
                    "to it here."
                )
            table = asked.setdefault(cycle, np.zeros_like(counts))
            table[client] = np.bincount(labels[rows[found]], minlength=counts.shape[1])
    return dict(sorted(asked.items()))


def _choices(books: list[_Book]) -> dict[tuple[int, int], Choice]:
    return {
        (cycle, client): Choice(notes["divergence"], notes["score"])
        for client, book in enumerate(books)
        for cycle, notes in book.notes.items()
        if notes.keys() >= {"divergence", "score"}
    }
