"""Whether a ledger belongs to a shard.

Both are told apart by `Shard.identity`: three words for the content, the number of
images and the names of the classes. Images that are files may come and go, as long as
all that were ever asked for are there as they were.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.client.sheet import Sheet, read_sheet, sheet_file
from fairfal_flwr.errors import UserError

__all__ = ["check_asked", "check_identity", "num_images"]


class _Words(NamedTuple):
    """What `Shard.identity` says."""

    content: str
    num_images: str = ""
    classes: str = ""


def num_images(identity: str) -> int:
    """Return the number of images in a shard's identity."""
    return int(_words(identity).num_images)


def check_identity(ledger: Path, known: str, found: str) -> None:
    """Make sure that a ledger's labels mean what this shard's would.

    Parameters
    ----------
    ledger : Path
        Its file.
    known, found : str
        The identity that the ledger was made for, and that of the shard.

    Raises
    ------
    UserError
        If the images are others, or the classes have other names or another order.
    """
    before, now = _words(known), _words(found)
    if before.content != now.content:
        raise UserError(
            f"The label ledger {ledger} belongs to images with fingerprint "
            f"{before.content}, found {now.content}; point `state-dir` elsewhere or "
            "restore the images."
        )
    if before.classes != now.classes:
        raise UserError(
            f"The label ledger {ledger} belongs to other class names or another order "
            f"of them{_named_classes(ledger)}, and its labels are their numbers; set "
            "`data.class-names` and the class folders as they were, or point "
            "`state-dir` elsewhere."
        )


def check_asked(
    ledger: Path, asked: NDArray[np.int64], held: NDArray[np.int64]
) -> None:
    """Make sure that all images that a ledger asked for are there as they were.

    Parameters
    ----------
    ledger : Path
        Its file; the sheet beside it knows the names.
    asked, held : ndarray, shape (n,), int64
        The samples of the ledger and those of the shard.

    Raises
    ------
    UserError
        If some are not.
    """
    lost = np.setdiff1d(asked, held)
    if len(lost):
        raise UserError(
            f"{len(lost)} image(s) that were asked for are missing, renamed or changed"
            f"{_named_file(ledger, lost)}; put each back where it was and as it was, "
            f"or point `state-dir` elsewhere (label ledger {ledger})."
        )


def _words(identity: str) -> _Words:
    return _Words(*identity.split(" ", 2))


def _named_classes(ledger: Path) -> str:
    sheet = _sheet(ledger)
    return f" ({', '.join(sheet.class_names)})" if sheet else ""


def _named_file(ledger: Path, lost: NDArray[np.int64]) -> str:
    sheet = _sheet(ledger)
    files = sheet.files if sheet else {}
    names = sorted(files[sample] for sample in lost.tolist() if sample in files)
    return f", first {names[0]!r}" if names else ""


def _sheet(ledger: Path) -> Sheet | None:
    with suppress(UserError):
        return read_sheet(sheet_file(ledger))
    return None
