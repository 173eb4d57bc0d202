"""The options of a strategy, read off its signature and its docstring.

There is one place for an option: the keyword parameter of the strategy's function holds
its type, its default and its range, and the docstring its meaning. Run config and
documentation are generated from here.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fairfal_flwr.kinds import KINDS

__all__ = ["Flavor", "Option", "Range", "check_options", "options_of"]

# Words that more than one strategy takes.
Flavor = Literal["entropy", "badge"]


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes: a marker for `typing.Annotated`.

    Parameters
    ----------
    ge, gt, le, lt : float, optional
        Bounds: at least, above, at most, below.

    Examples
    --------
    >>> Range(ge=0, lt=1).allows(0.5), Range(ge=0, lt=1).allows(1)
    (True, False)
    >>> str(Range(ge=0, lt=1))
    '>= 0 < 1'
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def allows(self, value: float) -> bool:
        """Tell whether a number is finite and within the bounds."""
        return (
            isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        signs = {">=": self.ge, ">": self.gt, "<=": self.le, "<": self.lt}
        return " ".join(
            f"{s} {bound}" for s, bound in signs.items() if bound is not None
        )


@dataclass(frozen=True)
class Option:
    """One keyword parameter of a strategy.

    Parameters
    ----------
    name : str
        As in the signature.
    kind : type
        `bool`, `int`, `float` or `str`.
    default : Any
        Its value unless said otherwise.
    words : tuple of str
        The texts that it takes; empty for other kinds.
    range : Range
        The numbers that it takes.
    meaning : str
        Its description in the docstring, on one line.
    """

    name: str
    kind: type
    default: Any
    words: tuple[str, ...] = ()
    range: Range = Range()
    meaning: str = ""

    @property
    def takes(self) -> str:
        """What values it takes, in words."""
        if self.words:
            return ", ".join(map(str, self.words))
        return f"{KINDS.get(self.kind, self.kind.__name__)} {self.range}".rstrip()

    def check(self, value: Any) -> None:
        """Raise a `ValueError` for a value that the option does not take."""
        if self.words:
            good = value in self.words
        elif self.kind not in KINDS:  # an own strategy may take what it likes
            good = True
        elif self.kind is float:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            good = number and self.range.allows(value)
        else:
            good = type(value) is self.kind
            good = good and (self.kind is not int or self.range.allows(value))
        if not good:
            raise ValueError(f"Expected {self.name}: {self.takes}; got {value!r}.")


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a strategy's function, in the order declared.

    Parameters
    ----------
    function : callable
        ``(context, budget, *, option: Annotated[int, Range(ge=1)] = 3, …)`` with a
        NumPy-style docstring, or a dataclass. Options are what has a default; one
        without a type takes that of its default.

    Examples
    --------
    >>> def by_age(context, budget, *, oldest: Annotated[int, Range(ge=1)] = 3):
    ...     '''Take the oldest.
    ...
    ...     Parameters
    ...     ----------
    ...     oldest : int, default 3
    ...         Years
    ...         at most.
    ...     '''
    >>> options_of(by_age)["oldest"].takes, options_of(by_age)["oldest"].meaning
    ('integer >= 1', 'Years at most.')
    """
    hints = get_type_hints(function, include_extras=True)
    meanings = _meanings(inspect.getdoc(function) or "")
    return {
        name: _option(parameter, hints.get(name), meanings.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }


def check_options(known: Mapping[str, Option], values: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a value that an option does not take, or for no option.

    Parameters
    ----------
    known : Mapping[str, Option]
        From `options_of`.
    values : Mapping[str, Any]
        By name; what is missing keeps its default.
    """
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(f"Unknown options {unknown}; known: {list(known)}.")
    for name, value in values.items():
        known[name].check(value)


def _option(parameter: inspect.Parameter, hint: Any, meaning: str) -> Option:
    limits = Range()
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        limits = next((mark for mark in marks if isinstance(mark, Range)), limits)
    words = _words(hint)
    kind = str if words else hint if isinstance(hint, type) else type(parameter.default)
    return Option(parameter.name, kind, parameter.default, words, limits, meaning)


def _words(hint: Any) -> tuple[str, ...]:
    """Return what a `Literal`, or a union of them, allows; () for other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for part in get_args(hint) for word in _words(part))


def _meanings(docstring: str) -> dict[str, str]:
    """Return the descriptions in the section Parameters of a NumPy-style docstring."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)",
        docstring,
        re.DOTALL | re.MULTILINE,
    )
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        if line[:1].strip():
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        elif text := line.strip():
            for name in names:
                meanings[name] = f"{meanings.get(name, '')} {text}".lstrip()
    return meanings
