"""One line for every mistake: the key, what was found, what is allowed."""

import difflib
from collections.abc import Iterable, Mapping

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fairfal_flwr.config.section import takes
from fairfal_flwr.console import one_line
from fairfal_flwr.errors import UserError

__all__ = ["explain", "mistake", "unknown"]

Fields = Mapping[str, FieldInfo]
LONGEST_MISTAKE = 4000  # a run config can be wrong in many keys
LONGEST_VALUE = 200


def mistake(problems: Iterable[str]) -> UserError:
    """Return the error that names some problems of a run config, in one line."""
    return UserError(one_line(f"Run config: {'; '.join(problems)}.", LONGEST_MISTAKE))


def unknown(key: str, fields: Fields) -> str:
    """Say that there is no such key, and which one may be meant."""
    key = one_line(key, LONGEST_VALUE)
    near = difflib.get_close_matches(key, fields, n=1)
    return f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else "")


def explain(detail: ErrorDetails, fields: Fields) -> str:
    """Say in words what pydantic found.

    Parameters
    ----------
    detail : ErrorDetails
        One of the errors.
    fields : Mapping
        Every key with its field.
    """
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown(key, fields)
    found = f"`{key}` is {one_line(repr(detail['input']), LONGEST_VALUE)}"
    if detail["type"] == "value_error":
        return f"{found}; {detail['ctx']['error']}"
    allowed = takes(fields[key]) if key in fields else "a section of keys"
    return f"{found}; allowed: {allowed}"
