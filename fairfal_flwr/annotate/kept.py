"""What a server of the page keeps from one start to the next.

The browsers that came in stay in, and the page stays at its address: answers that could
not be sent lie in the browser's storage, which belongs to the address.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex

from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing

__all__ = ["Kept", "keep", "what_was_kept"]

FILE = ".page.json"


@dataclass(frozen=True)
class Kept:
    """The content of a file that nobody else may read.

    Parameters
    ----------
    key : str
        Secret; seals the cookies.
    port : int
        Of the last time; 0 before.
    """

    key: str
    port: int = 0


def what_was_kept(root: Path) -> Kept:
    """Return what the last server below a state folder left; else a new key."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads((root / FILE).read_bytes())
        if len(entry["key"]) >= 64:
            return Kept(str(entry["key"]), int(entry["port"]))
    return Kept(token_hex(32))


def keep(root: Path, kept: Kept) -> None:
    """Leave it for the next one.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with replacing(root / FILE) as path:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(asdict(kept), file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Cannot write {root / FILE}: {reason}.") from None
