"""Tables, before anybody says for what."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """Heads and rows of cells.

    Parameters
    ----------
    heads : sequence of str
    rows : sequence of sequence of str
        As long as the heads.
    title : str
        Of a table that a page folds away.
    words : int
        How many of the first columns hold words, not numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    words: int = 1

    def markdown(self) -> list[str]:
        r"""Return the lines of the table in Markdown.

        Examples
        --------
        >>> Table(["a", "b"], [["1", "x|y"]]).markdown()
        ['| a | b |', '|---|---|', '| 1 | x\\|y |']
        """
        lines = [_line(self.heads), "|---" * len(self.heads) + "|"]
        return lines + [_line(row) for row in self.rows]


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
