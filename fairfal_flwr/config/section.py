"""What all sections of the run config are made of."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from fairfal_flwr.kinds import KINDS

__all__ = ["OneOf", "Scalar", "Section", "takes", "walk", "words"]

Scalar = bool | int | float | str


class Section(BaseModel):
    """A group of keys: kebab-case outside, typed and frozen inside."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        allow_inf_nan=False,
    )

    def chosen(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of some of the keys, by attribute."""
        names = (key.replace("-", "_") for key in keys)
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class OneOf:
    """Which texts a key takes, where a table names them: a marker for `Annotated`.

    Parameters
    ----------
    names : tuple of str
        The texts.
    form : str, optional
        Further ones, as a mistake's message calls them, such as ``hf:NAME``.
    pattern : str, optional
        The regular expression of that form.

    Examples
    --------
    >>> str(OneOf(("digits", "npz"), "hf:NAME", r"hf:.+"))
    'digits, npz, hf:NAME'
    """

    names: tuple[str, ...]
    form: str = ""
    pattern: str = ""

    def check(self, text: str) -> str:
        """Return the text if it is allowed, else raise a `ValueError`."""
        fits = bool(self.pattern and re.fullmatch(self.pattern, text))
        if text not in self.names and not fits:
            raise ValueError(f"allowed: {self}")
        return text

    def complete(self, text: str) -> str:
        """Return the further form of a text that is only its name, or nothing."""
        whole = self.form.replace("NAME", text) if "NAME" in self.form else ""
        return whole if whole and re.fullmatch(self.pattern, whole) else ""

    def __str__(self) -> str:
        return ", ".join([*self.names, self.form] if self.form else self.names)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))


def walk(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    """Yield every key below a section, with its value and its field."""
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{field.alias}", getattr(section, name)
        if isinstance(value, Section):
            yield from walk(value, f"{key}.")
        else:
            yield key, value, field


def takes(field: FieldInfo) -> str:
    """Say in words which values a key takes."""
    if known := _literal(field):
        return ", ".join(known)
    parts = [KINDS.get(field.annotation, str(field.annotation))]
    for mark in field.metadata:
        match mark:
            case OneOf():
                return str(mark)
            case Ge(ge=limit):
                parts.append(f">= {limit}")
            case Gt(gt=limit):
                parts.append(f"> {limit}")
            case Le(le=limit):
                parts.append(f"<= {limit}")
            case Lt(lt=limit):
                parts.append(f"< {limit}")
    return " ".join(parts)


def words(field: FieldInfo) -> tuple[str, ...]:
    """Return the texts that a key takes, where there is a list of them."""
    listed = [mark.names for mark in field.metadata if isinstance(mark, OneOf)]
    return listed[0] if listed else _literal(field)


def _literal(field: FieldInfo) -> tuple[str, ...]:
    is_literal = get_origin(field.annotation) is Literal
    return tuple(map(str, get_args(field.annotation))) if is_literal else ()
