"""Look into what crossed a wire."""

import re
import zlib
from collections import Counter
from math import log2


def entropy(data: bytes) -> float:
    """Return the entropy of single bytes, in bits; 8 is what noise has.

    Examples
    --------
    >>> entropy(bytes(range(256)) * 4), entropy(b"aaaa")
    (8.0, 0.0)
    """
    counts = Counter(data).values()
    return sum((n / len(data) * log2(len(data) / n) for n in counts), 0.0)


def plain_requests(data: bytes) -> int:
    """Count HTTP's first lines in the clear."""
    return len(re.findall(rb"(?:POST|GET) /\S+ HTTP/1\.[01]\r\n", data))


def found(data: bytes, secrets: dict[str, bytes]) -> set[str]:
    """Return the names of the secrets that are there as they are, or zipped."""
    there = {name for name, secret in secrets.items() if secret in data}
    inflated = b"".join(_inflate(data))
    return there | {name for name, secret in secrets.items() if secret in inflated}


def _inflate(data: bytes) -> list[bytes]:
    """Return what unzips: the raw streams of the zip files inside."""
    pieces = []
    for match in re.finditer(rb"PK\x03\x04.{22}(..)(..)", data, re.DOTALL):
        name, extra = (int.from_bytes(part, "little") for part in match.groups())
        try:
            start = match.end() + name + extra
            pieces.append(zlib.decompressobj(-15).decompress(data[start:]))
        except zlib.error:
            continue
    return pieces
