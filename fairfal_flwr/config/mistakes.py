"""One line for every mistake: the key, what was found, what is allowed."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fairfal_flwr.config.section import OneOf, takes, words
from fairfal_flwr.console import one_line
from fairfal_flwr.errors import UserError

__all__ = ["explain", "mistake", "unknown"]

Fields = Mapping[str, FieldInfo]
LONGEST_MISTAKE = 4000  # a run config can be wrong in many keys
LONGEST_VALUE = 200


def mistake(problems: Iterable[str]) -> UserError:
    """Return the error that names some problems of a run config, in one line."""
    return UserError(one_line(f"Run config: {'; '.join(problems)}.", LONGEST_MISTAKE))


def unknown(key: str, value: object, fields: Fields) -> str:
    """Say that there is no such key, and which one may be meant."""
    shown = one_line(key, LONGEST_VALUE)
    if any(field.startswith(f"{key}.") for field in fields):
        found = one_line(repr(value), LONGEST_VALUE)
        return f"`{shown}` is {found}; allowed: a section of keys"
    without_section = [field for field in fields if field.endswith(f".{key}")]
    meant = without_section or near(key, fields) or _near_elsewhere(key, fields)
    return f"unknown key `{shown}`{_meant(meant)}"


def _near_elsewhere(key: str, fields: Fields) -> list[str]:
    """Return keys of any section whose last word is near to this one's."""
    last = {field: field.rpartition(".")[2] for field in fields}
    words = near(key.rpartition(".")[2], last.values())
    return [field for field, word in last.items() if word in words]


def explain(detail: ErrorDetails, fields: Fields) -> str:
    """Say in words what pydantic found.

    Parameters
    ----------
    detail : ErrorDetails
        One of the errors.
    fields : Mapping
        Every key with its field.
    """
    key, value = ".".join(str(part) for part in detail["loc"]), detail["input"]
    if detail["type"] == "extra_forbidden":
        return unknown(key, value, fields)
    found = f"`{key}` is {one_line(repr(value), LONGEST_VALUE)}"
    if key in fields and isinstance(value, str):
        found += _meant(_near_value(value, fields[key]))
    if detail["type"] == "value_error":
        return f"{found}; {detail['ctx']['error']}"
    allowed = takes(fields[key]) if key in fields else "a section of keys"
    return f"{found}; allowed: {allowed}"


def _near_value(value: str, field: FieldInfo) -> list[str]:
    """Return which of the texts that a key takes may be meant."""
    known = words(field)
    if value in known:
        return []
    forms = [mark.complete(value) for mark in field.metadata if isinstance(mark, OneOf)]
    return near(value, known) or [form for form in forms if form]


def near(text: str, names: Collection[str]) -> list[str]:
    """Return the name that a text may be meant for, or none.

    Case and marks do not count; digits do, as no 50 is meant for an 18.

    Examples
    --------
    >>> near("FedAvg", ["fedavg", "fedavgm"]), near("resnet50", ["resnet10"])
    (['fedavg'], [])
    """
    plain = {_plain(name): name for name in names if _digits(name) == _digits(text)}
    close = difflib.get_close_matches(_plain(text), plain, n=1, cutoff=0.7)
    return [plain[word] for word in close]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.:]", "", text.lower())


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _meant(names: Collection[str]) -> str:
    return f" (did you mean `{'` or `'.join(names)}`?)" if names else ""
