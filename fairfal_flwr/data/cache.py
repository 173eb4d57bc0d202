"""Shards on disk, so that a new process has its images in milliseconds.

A deployed client is a new process for every message. A shard's entry is a folder that
is named after all that determines the shard: the configuration and the size and time of
every source file. Its manifest is written last and holds a checksum of every array; an
entry without one, or with another sum, is no entry. What cannot be cached is loaded
anew: a full disk costs time, never a run.

A tag marks the folder of entries as the cache's own. Where something lies in it without
that tag, nothing is written and nothing removed: it is somebody else's.
"""

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairfal_flwr.files import replacing

__all__ = ["Entry", "ShardCache", "stamp"]

log = logging.getLogger("fairfal.data")

_FORMAT = 3
_MANIFEST = "manifest.json"
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Shards that FairFAL keeps ready; it makes them anew when they are gone.
"""
_ENTRY = re.compile("[0-9a-f]{32}")  # what `stamp` returns
_OWN_FILE = re.compile(r"manifest\.json|\w+\.npy|\.(manifest-\d+\.json|\w+-\d+\.npy)")
_MEBIBYTE = 1 << 20
_CHUNK = 64 * _MEBIBYTE
_DAMAGE = OSError, EOFError, AttributeError, LookupError, TypeError, ValueError
_Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Entry:
    """What is kept of a shard: arrays by name, and facts that JSON can hold."""

    arrays: _Arrays
    facts: dict[str, Any]


@dataclass(frozen=True)
class ShardCache:
    """A folder of entries.

    Attributes
    ----------
    folder : Path
        Made when it is first written to, and left alone if it is somebody else's.
    limit_mb : int
        Size of all entries in MiB; the oldest go first. 0 keeps none.
    memory_mb : int
        Arrays above this size are mapped into memory, not read.
    """

    folder: Path
    limit_mb: int
    memory_mb: int

    def load(self, key: str) -> Entry | None:
        """Return an entry, or None if there is none or it is damaged."""
        if not self.limit_mb:
            return None
        folder = self.folder / key
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            arrays = {
                name: self._read(folder / f"{name}.npy", checksum)
                for name, checksum in manifest["checksums"].items()
            }
            return Entry(arrays, manifest["facts"])
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            log.warning("the cached shard %s is damaged (%s): made anew", folder, error)
            return None

    def save(self, key: str, entry: Entry) -> None:
        """Keep an entry, if there is room for it."""
        size = sum(array.nbytes for array in entry.arrays.values())
        if size > self.limit_mb * _MEBIBYTE:
            return
        folder = self.folder / key
        try:
            if not self._claim():
                log.warning("no shard is cached: %s is somebody else's", self.folder)
                return
            folder.mkdir(exist_ok=True)
            self._make_room(folder, size)
            self._write(folder, entry)
        except OSError as error:
            _remove(folder)
            reason = error.strerror or error
            log.warning("the shard is not cached in %s: %s", folder, reason)

    def _claim(self) -> bool:
        """Mark the folder as this cache's own; False if it is somebody else's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tag = self.folder / _TAG
        if tag.is_file():
            return tag.read_bytes() == _TAG_TEXT.encode()
        beside = (path.name for path in self.folder.iterdir())
        if any(not re.fullmatch(r"\.CACHEDIR-\d+\.TAG", name) for name in beside):
            return tag.is_file()  # another process may have claimed it meanwhile
        with replacing(tag) as path:
            path.write_text(_TAG_TEXT, encoding="utf-8")
        return True

    def _read(self, path: Path, checksum: int) -> npt.NDArray[Any]:
        big = path.stat().st_size > self.memory_mb * _MEBIBYTE
        # Copy on write: nobody can change the file through the array.
        array: npt.NDArray[Any] = np.load(
            path, mmap_mode="c" if big else None, allow_pickle=False
        )
        if _checksum(array) != checksum:
            raise ValueError(f"{path.name} has another checksum")
        return array

    @staticmethod
    def _write(folder: Path, entry: Entry) -> None:
        (folder / _MANIFEST).unlink(missing_ok=True)
        checksums = {}
        for name, array in entry.arrays.items():
            with replacing(folder / f"{name}.npy") as path, path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            checksums[name] = _checksum(array)
        manifest = {"facts": entry.facts, "checksums": checksums}
        with replacing(folder / _MANIFEST) as path:
            path.write_text(json.dumps(manifest), encoding="utf-8")

    def _make_room(self, keep: Path, size: int) -> None:
        """Remove the oldest entries until `size` more bytes are within the limit."""
        others = [
            path
            for path in self.folder.iterdir()
            if path != keep and _ENTRY.fullmatch(path.name) and not path.is_symlink()
        ]
        sizes = {path: _size(path) for path in others}
        for path in sorted(others, key=_age):
            if sum(sizes.values()) + size <= self.limit_mb * _MEBIBYTE:
                break
            _remove(path)
            del sizes[path]


def stamp(facts: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Return the name of an entry: 32 hex digits of a SHA-256.

    Parameters
    ----------
    facts : mapping of what JSON can hold
        Whatever determines the shard.
    files : iterable of Path
        The files it is made from; their names, sizes and times enter.
    """
    text = json.dumps([_FORMAT, facts], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for path in files:
        status = path.stat()
        line = f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _checksum(array: npt.NDArray[Any]) -> int:
    """Return a checksum of shape, type and content, read in pieces."""
    total = zlib.crc32(f"{array.dtype.str}{array.shape}".encode())
    content = array.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _CHUNK):
        total = zlib.crc32(content[start : start + _CHUNK].data, total)
    return total


def _remove(folder: Path) -> None:
    """Remove an entry, and nothing in it that is not an entry's."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _OWN_FILE.fullmatch(path.name):
                path.unlink()
        folder.rmdir()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _age(folder: Path) -> float:
    manifest = folder / _MANIFEST
    return manifest.stat().st_mtime if manifest.is_file() else 0.0
