"""What a person needs beside the ledger: which image a question is about, and more.

The client writes it, whoever serves the questions reads it; neither knows the other.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing
from fairfal_flwr.runs.rows import Row

__all__ = [
    "Sheet",
    "Word",
    "read_sheet",
    "read_word",
    "sheet_file",
    "word_file",
    "write_sheet",
    "write_word",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Sheet(Row):
    """How to find the images of a ledger's questions and to name their classes.

    Parameters
    ----------
    campaign : str
        The run's name.
    client : int
        The client's index.
    class_names : tuple of str
        The class with label ``c`` is ``class_names[c]``.
    votes : int
        People who must agree on an answer.
    folder : str
        Absolute; where the files are.
    by_content : bool
        Whether a sample's id is `identity_of` of its file's path and content. Else the
        files were written by the client.
    files : Mapping of int to str
        Path below the folder by sample, of all that was ever asked for.
    """

    campaign: str
    client: int
    class_names: tuple[str, ...]
    votes: int
    folder: str
    by_content: bool
    files: Mapping[int, str]


@dataclass(frozen=True)
class Word(Row):
    """What the server last said of the campaign.

    Parameters
    ----------
    cycle : int
        Whose labels it waits for.
    awaited : int
        Clients with open questions.
    open : int
        Open questions of all clients.
    seconds_left : float or None
        To the deadline, when this was told; None where there is none.
    told_at : str
        ISO time in UTC.
    """

    cycle: int
    awaited: int
    open: int
    seconds_left: float | None
    told_at: str


def sheet_file(ledger: Path) -> Path:
    """Return where a ledger's sheet is."""
    return ledger.with_suffix(".sheet.json")


def word_file(ledger: Path) -> Path:
    """Return where the server's word is, beside a ledger."""
    return ledger.with_suffix(".word.json")


def write_sheet(path: Path, sheet: Sheet) -> None:
    """Put a sheet in the place of the one before."""
    _write(path, Sheet, sheet)


def read_sheet(path: Path) -> Sheet:
    """Return a sheet.

    Raises
    ------
    UserError
        If there is none, or it is damaged.
    """
    return _read(path, Sheet)


def write_word(ledger: Path, word: Word) -> None:
    """Keep what the server said."""
    _write(word_file(ledger), Word, word)


def read_word(ledger: Path) -> Word | None:
    """Return what the server said last; None if it said nothing yet."""
    path = word_file(ledger)
    return _read(path, Word) if path.exists() else None


def _write(path: Path, kind: type[T], value: T) -> None:
    entry = TypeAdapter(kind).dump_python(value, mode="json", by_alias=True)
    with replacing(path) as temporary:
        text = json.dumps(entry, ensure_ascii=False, indent=1)
        temporary.write_text(text, encoding="utf-8")


def _read(path: Path, kind: type[T]) -> T:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        reason = error.strerror or str(error)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
    raise UserError(f"Cannot read {path}: {reason}; the client's next query writes it.")
