"""Writes the files of one run into one folder.

A file is either replaced as a whole or grows by whole lines, so that a reader at any
moment, and after any crash, finds a run that was.
"""

import csv
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import tomli_w

from fairfal_flwr.errors import UserError
from fairfal_flwr.files import append_line, replacing, settle
from fairfal_flwr.runs.events import Event, EventKind, entry_of_event
from fairfal_flwr.runs.rows import QueryRow, RoundRow, Row, Summary, entry_of

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "EVENTS",
    "MODEL",
    "QUERIES",
    "ROUNDS",
    "SUMMARY",
    "RunWriter",
]

CONFIG, SUMMARY, MODEL = "config.toml", "summary.json", "model.safetensors"
ROUNDS, QUERIES, EVENTS = "rounds.csv", "queries.csv", "events.jsonl"
CHECKPOINT = "checkpoint.safetensors"


class RunWriter:
    """Writes into the folder of a run.

    Parameters
    ----------
    folder : Path
        An existing folder, empty or with the files of the same run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, root: Path, name: str) -> "RunWriter":
        """Create a new folder for a run.

        Parameters
        ----------
        root : Path
            Holds the folders of all runs; created where it is not there.
        name : str
            What the run is of. The time goes before it and a random number behind it,
            so that no two runs have one name, in whatever folders: ledgers are named
            by it. What a file system might refuse becomes a dash.

        Raises
        ------
        UserError
            If the folder cannot be written.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        folder = root / f"{stamp}-{name}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"Cannot write results to {root}: {error.strerror or error}; set "
                "`output-dir` to a folder that can be written."
            ) from None
        return cls(folder)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of rounds.csv and queries.csv, which are on the disk now."""
        sizes = {}
        for path in (self.folder / ROUNDS, self.folder / QUERIES):
            if is_there := path.exists():
                settle(path)
            sizes[path.name] = path.stat().st_size if is_there else 0
        return sizes

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Cut off what was appended since `sizes` returned these.

        Raises
        ------
        UserError
            If a file is shorter: somebody else changed it.
        """
        for name, size in sizes.items():
            path = self.folder / name
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                raise UserError(
                    f"{path} has {found} bytes and had {size} at the last checkpoint; "
                    "put back what is missing or start the run anew."
                )
        for name, size in sizes.items():
            if (path := self.folder / name).exists():
                os.truncate(path, size)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration as run, with nested sections."""
        with replacing(self.folder / CONFIG) as path:
            path.write_text(tomli_w.dumps(config), encoding="utf-8")

    def append_queries(self, rows: Sequence[QueryRow]) -> None:
        """Append the choices of one cycle to queries.csv, and tell of them."""
        for row in rows:
            self._append_row(QUERIES, row)
        self.event(
            EventKind.QUERY_FINISHED,
            cycle=rows[0].cycle,
            strategy=rows[0].strategy,
            selected=sum(row.num_selected for row in rows),
            labels=sum(row.num_labeled for row in rows),
        )

    def append_round(self, row: RoundRow) -> None:
        """Append a round to rounds.csv, and tell of it and of its evaluation."""
        self._append_row(ROUNDS, row)
        at = {"cycle": row.cycle, "round": row.round}
        self.event(
            EventKind.ROUND_FINISHED,
            **at,
            clients=row.clients,
            loss=row.loss,
            seconds=row.seconds,
        )
        if row.accuracy is not None:
            measures = {"accuracy": row.accuracy, "rare_recall": row.rare_recall}
            self.event(EventKind.EVALUATED, **at, **measures)

    def write_summary(self, summary: Summary) -> None:
        """Replace summary.json."""
        text = json.dumps(entry_of(summary), indent=1, allow_nan=False)
        with replacing(self.folder / SUMMARY) as path:
            path.write_text(text + "\n", encoding="utf-8")

    def save_model(self, weights: dict[str, Any], **metadata: int) -> None:
        """Replace model.safetensors by these tensors."""
        from fairfal_flwr.tensor_file import write_tensors  # brings PyTorch along

        text = {key: str(value) for key, value in metadata.items()}
        write_tensors(self.folder / MODEL, weights, text)

    def event(self, kind: EventKind, /, **facts: Any) -> None:
        """Append what happens now to events.jsonl."""
        event = Event(datetime.now(UTC), kind, facts)
        line = json.dumps(entry_of_event(event), ensure_ascii=False, allow_nan=False)
        append_line(self.folder / EVENTS, line + "\n")

    def _append_row(self, name: str, row: Row) -> None:
        entry = entry_of(row)
        text = StringIO()
        writer = csv.DictWriter(text, list(entry))
        writer.writerow(entry)
        head = StringIO()
        csv.DictWriter(head, list(entry)).writeheader()
        append_line(self.folder / name, text.getvalue(), head=head.getvalue())
