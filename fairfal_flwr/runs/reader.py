"""Reads what a run has left behind so far, while it goes on or long after."""

import csv
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fairfal_flwr.errors import UserError
from fairfal_flwr.files import whole_lines
from fairfal_flwr.runs.events import Event, event_of
from fairfal_flwr.runs.rows import FORMAT, QueryRow, RoundRow, Row, Summary, row_of
from fairfal_flwr.runs.writer import CONFIG, EVENTS, QUERIES, ROUNDS, SUMMARY

__all__ = ["NAMES", "Run", "is_run", "read_run"]

NAMES = (CONFIG, SUMMARY, ROUNDS, QUERIES, EVENTS)

T = TypeVar("T")
R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Run:
    """A run's files; what it has not written yet is None or empty.

    Parameters
    ----------
    folder : Path
        Where they are.
    config : dict of str, optional
        Values by dotted key, as the run config of Flower has them.
    summary : Summary, optional
        Of the cycles so far.
    rounds : tuple of RoundRow
    queries : tuple of QueryRow
    events : tuple of Event
    """

    folder: Path
    config: dict[str, Any] | None
    summary: Summary | None
    rounds: tuple[RoundRow, ...]
    queries: tuple[QueryRow, ...]
    events: tuple[Event, ...]


def is_run(folder: Path) -> bool:
    """Tell whether a folder has a file of a run."""
    return any((folder / name).is_file() for name in NAMES)


def read_run(folder: Path) -> Run:
    """Read the files of a run.

    Raises
    ------
    UserError
        If the folder is none of a run, a file is damaged, or another version of this
        package wrote it in a format that is not known.
    """
    if not is_run(folder):
        raise UserError(
            f"{folder} is no folder of results: it has none of {', '.join(NAMES)}."
        )
    return Run(
        folder,
        config=_read(folder / CONFIG, _config, None),
        summary=_read(folder / SUMMARY, _summary, None),
        rounds=_read(folder / ROUNDS, lambda path: _rows(path, RoundRow), ()),
        queries=_read(folder / QUERIES, lambda path: _rows(path, QueryRow), ()),
        events=_read(folder / EVENTS, _events, ()),
    )


def _read(path: Path, parse: Callable[[Path], T], missing: T) -> T:
    try:
        return parse(path)
    except FileNotFoundError:
        return missing
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None


def _config(path: Path) -> dict[str, Any]:
    with _damage(path):
        return dict(_flat(tomllib.loads(path.read_bytes().decode())))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _summary(path: Path) -> Summary:
    with _damage(path):
        entry = json.loads(path.read_bytes())
        found = entry.get("format") if isinstance(entry, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} has the format {found}; known is {FORMAT}.")
    with _damage(path):
        return row_of(Summary, entry)


def _rows(path: Path, kind: type[R]) -> tuple[R, ...]:
    with _damage(path):
        text = whole_lines(path.read_bytes()).decode()
        lines = list(csv.reader(StringIO(text, newline=""), strict=True))
    keys, rows = lines[:1], []
    for number, cells in enumerate(lines[1:], start=2):
        with _damage(path, number):
            known = (cell or None for cell in cells)  # blank: not known
            rows.append(row_of(kind, dict(zip(*keys, known, strict=True))))
    return tuple(rows)


def _events(path: Path) -> tuple[Event, ...]:
    with _damage(path):
        lines = whole_lines(path.read_bytes()).decode().split("\n")[:-1]
    events = []
    for number, line in enumerate(lines, start=1):
        with _damage(path, number):
            events.append(event_of(json.loads(line)))
    return tuple(events)


@contextmanager
def _damage(path: Path, line: int = 0) -> Iterator[None]:
    """Turn what a parser says of a damaged file into one line for people."""
    try:
        yield
    except (ValueError, csv.Error) as error:
        where = f" in line {line}" if line else ""
        raise UserError(f"{path} is damaged{where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        return f"`{key}`: {first['msg']}"
    return " ".join(str(error).split())
