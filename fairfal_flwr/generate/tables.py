"""Tables of the documentation in which some columns follow from the code."""

import re
from collections.abc import Mapping

__all__ = ["fill_table", "replace_config"]

UNKNOWN = "?"
_CONFIG = "[tool.flwr.app.config"


def fill_table(page: str, name: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return a page of Markdown with the table of a name brought up to date.

    The table stands between ``<!-- make config: NAME -->`` and ``<!-- end -->``. Known
    rows keep their order and the cells that were written by hand; a new row has "?"
    in those, and one whose name is gone goes.

    Parameters
    ----------
    page : str
        The page.
    name : str
        Of the table.
    rows : Mapping
        By the name in a row's first cell, the cells that follow from the code, by
        column.

    Raises
    ------
    ValueError
        If there is no such table.
    """
    pattern = rf"(<!-- make config: {name} -->\n)(.*?)(<!-- end -->)"
    found = re.search(pattern, page, re.DOTALL)
    if not found:
        raise ValueError(f"Expected the marker '<!-- make config: {name} -->'.")
    header, rule, *old = found[2].splitlines()
    columns = _cells(header)
    known = {cells[0].strip("`"): cells for cells in map(_cells, old)}
    names = [n for n in known if n in rows] + [n for n in rows if n not in known]
    lines = [header, rule, *(_row(n, columns, rows[n], known.get(n)) for n in names)]
    table = "".join(f"{line}\n" for line in lines)
    return page[: found.start(2)] + table + page[found.end(2) :]


def replace_config(project: str, tables: str) -> str:
    """Return a pyproject.toml with other ``[tool.flwr.app.config…]`` tables.

    Every other byte stays, so do comments in front of what follows.
    """
    lines = project.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith(_CONFIG))
    end = next(
        (
            i
            for i, line in enumerate(lines[start:], start)
            if line.startswith("[") and not line.startswith(_CONFIG)
        ),
        len(lines),
    )
    while end < len(lines) and lines[end - 1].lstrip()[:1] in ("", "#"):
        end -= 1
    rest = "".join(lines[end:])
    return "".join(lines[:start]) + tables + rest


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _row(
    name: str, columns: list[str], given: Mapping[str, str], old: list[str] | None
) -> str:
    cells = dict(zip(columns, old or [UNKNOWN] * len(columns), strict=True))
    cells |= {columns[0]: f"`{name}`", **given}
    return f"| {' | '.join(cells.values())} |"
