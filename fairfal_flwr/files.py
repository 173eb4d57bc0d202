"""Files that are whole, or not there, or grow by whole lines."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["append_line", "identity_of", "replacing", "settle", "whole_lines"]


def identity_of(name: str, content: bytes) -> int:
    """Return the number that stands for a file of this name and content.

    Parameters
    ----------
    name : str
        Its path below some folder, with slashes.
    content : bytes
        All of it.

    Returns
    -------
    int
        63 bits of BLAKE2b over the name, NUL and the content.
    """
    digest = hashlib.blake2b(os.fsencode(name) + b"\0", digest_size=8)
    digest.update(content)
    return int.from_bytes(digest.digest()) >> 1


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path whose file takes the place of `path` once it is complete.

    Parameters
    ----------
    path : Path
        A reader sees its old content or its new, never half of it. If the block
        raises, the old content stays.

    Yields
    ------
    Path
        Beside `path`, with the same suffix; the block creates this file.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        settle(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str, *, head: str = "") -> None:
    """Append a line so that it is either whole or recognized as unfinished.

    Parameters
    ----------
    path : Path
        Created where it is not there. Without a newline at its end it holds a line
        that somebody could not finish, which is cut off first.
    line : str
        With its newline.
    head : str
        Goes first into an empty file, by the same write.
    """
    with path.open("ab+", buffering=0) as file:
        _cut_unfinished(file)
        text = line if file.seek(0, os.SEEK_END) else head + line
        data = text.encode()
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def settle(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def whole_lines(data: bytes) -> bytes:
    """Return the content of a growing file without the line that is not finished."""
    return data[: data.rfind(b"\n") + 1]


def _cut_unfinished(file: BinaryIO) -> None:
    if not (size := file.seek(0, os.SEEK_END)):
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(len(whole_lines(file.read())))
