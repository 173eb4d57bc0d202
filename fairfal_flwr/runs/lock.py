"""Who writes into a run's folder: one process at a time."""

import fcntl
import os
from pathlib import Path

from fairfal_flwr.errors import UserError

__all__ = ["hold", "is_held", "release"]


def hold(folder: Path) -> int:
    """Keep others out of a run until `release` or the end of this process.

    Returns
    -------
    int
        The descriptor of the open folder, which is what is locked.

    Raises
    ------
    UserError
        If another process writes into this run.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"Another process is at work on the run {folder}; wait for its end or "
            "stop it."
        ) from None
    return descriptor


def release(descriptor: int) -> None:
    """Let others in."""
    os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Tell whether some process writes into a run.

    To ask is to hold it for a moment with whoever else asks, so better not to while a
    process may be about to.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
