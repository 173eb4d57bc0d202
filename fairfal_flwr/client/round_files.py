"""What a client keeps of its rounds between two messages: one file for each.

A deployed client is a new process for every message, and simulated clients share
processes, so nothing may live in memory alone. A server that was interrupted goes on
from its last checkpoint, some rounds back, and must meet there what it left. So a file
is named by cycle and round, and goes when the server says that it cannot come back.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from fairfal_flwr.errors import UserError
from fairfal_flwr.tensor_file import read_tensors, write_tensors

__all__ = ["RoundFiles"]

Moment = tuple[int, int]  # cycle and round, counted from 1


class RoundFiles:
    """The files of one kind beside a client's ledger.

    Parameters
    ----------
    ledger : Path
        The client's; the files have its name and another ending.
    kind : str
        Such as ``"last-round"``.
    what : str
        What a file holds, for people.
    """

    def __init__(self, ledger: Path, kind: str, what: str) -> None:
        self._ledger = ledger
        self._kind = kind
        self._what = what

    def path(self, moment: Moment) -> Path:
        """Return where the file of a round is, or would be."""
        cycle, number = moment
        return self._ledger.with_suffix(
            f".{self._kind}-{cycle:04d}-{number:06d}.safetensors"
        )

    def moments(self) -> list[Moment]:
        """Return cycle and round of every file, ascending."""
        pattern = f"{self._ledger.stem}.{self._kind}-*.safetensors"
        names = (path.name for path in self._ledger.parent.glob(pattern))
        found = (re.search(r"-(\d+)-(\d+)\.safetensors$", name) for name in names)
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def read(self, moment: Moment) -> dict[str, Tensor] | None:
        """Return the tensors of a round, on the CPU; None if there is no file."""
        path = self.path(moment)
        if not path.exists():
            return None
        return read_tensors(path)[0]

    def write(self, moment: Moment, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a round; a crash leaves the old file or the new.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        path = self.path(moment)
        try:
            write_tensors(path, tensors, {})
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"Cannot write {self._what} {path}: {error}; set `state-dir` to a "
                "folder that can be written."
            ) from None

    def forget(self, moments: Iterable[Moment]) -> None:
        """Delete the files of some rounds."""
        for moment in moments:
            self.path(moment).unlink(missing_ok=True)
