"""Questions and answers as a table that spreadsheets open and cannot harm.

UTF-8 with a byte order mark. A text that a spreadsheet could take for a formula gets an
apostrophe in front, which is taken off when the table is read.
"""

import csv
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path

from fairfal_flwr.annotate.entries import (
    Entry,
    Item,
    Said,
    read_client,
    read_sample,
    sample_text,
)
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing

__all__ = ["read_csv", "write_csv"]

CANNOT_TELL = "?"
NEEDED = ("campaign", "client", "sample", "answer")
COLUMNS = (
    *("campaign", "client", "sample", "file", "cycle", "strategy", "suggestion"),
    *("score", "answer", "annotator", "answered-at"),
)
DELIMITERS = ",;\t"

# What begins a formula, and what would be taken for something else when it is read.
GUARDED = tuple("=+-@\t\r\n'" + CANNOT_TELL)


def write_csv(path: Path, items: Iterable[Item]) -> None:
    """Write a row per answer that stands and per question that is open."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8-sig", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for item in items:
            table.writerows(_rows(item))


def read_csv(path: Path) -> list[Entry]:
    """Return what a table says, row by row.

    Parameters
    ----------
    path : Path
        As `write_csv` made it, whatever a spreadsheet did to it since: other
        delimiters, columns in another order, more or fewer of them.

    Raises
    ------
    UserError
        If it is no table, or a row makes no sense.
    """
    rows = _cells(path)
    _, header = next(rows, ("", []))
    names = [name.strip().lower() for name in header]
    if missing := [name for name in NEEDED if name not in names]:
        raise UserError(
            f"{path}, line 1: no column {', '.join(map(repr, missing))}; found: "
            f"{', '.join(filter(None, names)) or 'nothing'}."
        )
    if twice := [name for name in NEEDED if names.count(name) > 1]:
        raise UserError(f"{path}, line 1: the column {twice[0]!r} is there twice.")
    return [
        _entry(place, names, cells)
        for place, cells in rows
        if any(map(str.strip, cells))
    ]


def _rows(item: Item) -> Iterator[tuple[str | float | None, ...]]:
    question = (
        *(_guarded(item.campaign), item.client, sample_text(item.sample_id)),
        *(_guarded(str(item.file)), item.cycle, _guarded(item.strategy)),
        _guarded(item.suggestion or ""),
        item.score,
    )
    for said in item.said:
        answer = CANNOT_TELL if said.answer is None else _guarded(said.answer)
        yield (*question, answer, _guarded(said.annotator), said.at)
    if item.is_open:
        yield (*question, "", "", "")


def _entry(place: str, names: list[str], cells: list[str]) -> Entry:
    if any(map(str.strip, cells[len(names) :])):
        raise UserError(
            f"{place}: found {len(cells)} cells, allowed: {len(names)}, as in line 1."
        )
    row = dict(zip(names, map(str.strip, cells), strict=False))
    answer, annotator = row.get("answer", ""), row.get("annotator", "")
    said = Said(
        None if answer == CANNOT_TELL else _unguarded(answer), _unguarded(annotator)
    )
    return Entry(
        place,
        _unguarded(row.get("campaign", "")),
        read_client(row.get("client", ""), place),
        read_sample(row.get("sample", ""), place),
        (said,) if answer else (),
    )


def _cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each row with the place where it begins."""
    lines = StringIO(_text(path), newline="")
    delimiter = max(DELIMITERS, key=lines.readline().count)
    lines.seek(0)
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in table:
            yield f"{path}, line {line}", cells
            line = table.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}.") from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8; save it as 'CSV UTF-8'."
        ) from None


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(GUARDED) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(GUARDED) else text
