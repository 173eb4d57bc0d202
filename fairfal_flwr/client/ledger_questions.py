"""How a ledger's rows become questions."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from itertools import starmap

from fairfal_flwr.client.questions import Question, Row

__all__ = ["last_number", "questions_of"]

REQUESTS = """
    SELECT sample_id, cycle, rank, strategy, asked_at, suggestion, score
    FROM request JOIN selection USING (cycle)
"""
ANSWERS = "SELECT number, sample_id, action, label, annotator, answered_at FROM answer"
AMONG = " WHERE sample_id IN (SELECT value FROM json_each(?))"


def questions_of(
    db: sqlite3.Connection, sample_ids: Sequence[int] | None = None
) -> dict[int, Question]:
    """Return questions with all that was said about them.

    Parameters
    ----------
    db : Connection
        In a transaction.
    sample_ids : sequence of int, optional
        Whose; all that were ever asked where it is left out.

    Returns
    -------
    dict
        By sample, in the order of cycle and rank; samples never asked for are missing.
    """
    among, which = (
        ("", ()) if sample_ids is None else (AMONG, (json.dumps(sample_ids),))
    )
    rows: defaultdict[int, list[Row]] = defaultdict(list)
    for row in map(Row._make, db.execute(f"{ANSWERS}{among} ORDER BY number", which)):
        rows[row.sample_id].append(row)
    requests = db.execute(f"{REQUESTS}{among} ORDER BY cycle, rank", which)
    whole = ((*request, tuple(rows[request[0]])) for request in requests)
    return {question.sample_id: question for question in starmap(Question, whole)}


def last_number(db: sqlite3.Connection) -> int:
    """Return the number of the last row that was said; 0 without any."""
    (last,) = db.execute("SELECT coalesce(max(number), 0) FROM answer").fetchone()
    return int(last)
