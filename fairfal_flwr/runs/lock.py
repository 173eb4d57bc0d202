"""Who writes into a run's folder: one process at a time."""

import fcntl
import os
from pathlib import Path

from fairfal_flwr.errors import UserError

__all__ = ["hold", "release"]


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
