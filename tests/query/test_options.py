"""Options read off signatures and docstrings, and what they take."""

from dataclasses import dataclass
from math import inf, nan
from typing import Annotated, Literal

import pytest

from fairfal_flwr.query.options import Option, Range, check_options, options_of


def example(
    context,
    budget,
    *,
    size: Annotated[int, Range(ge=1)] = 3,
    share: Annotated[float, Range(gt=0, le=1)] = 0.5,
    how: Literal["a"] | Literal["b", "c"] = "b",
    wide: bool = True,
    free=None,
):
    """Do as an example does.

    Parameters
    ----------
    context : object
        Nothing.
    size : int
        How large
        it is.
    share, how : object
        Both.

    Returns
    -------
    wide : bool
        Not an option.
    """


OPTIONS = options_of(example)


def test_options_are_what_has_a_default_in_the_order_declared():
    assert list(OPTIONS) == ["size", "share", "how", "wide", "free"]
    assert [option.default for option in OPTIONS.values()] == [3, 0.5, "b", True, None]
    assert OPTIONS["size"] == Option(
        "size", int, 3, range=Range(ge=1), meaning="How large it is."
    )


def test_the_docstring_gives_the_meaning_and_other_sections_do_not():
    assert OPTIONS["share"].meaning == OPTIONS["how"].meaning == "Both."
    assert OPTIONS["wide"].meaning == OPTIONS["free"].meaning == ""


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("size", "integer >= 1"),
        ("share", "number > 0 <= 1"),
        ("how", "a, b, c"),
        ("wide", "true or false"),
    ],
)
def test_what_it_takes_is_said_in_words(name, takes):
    assert OPTIONS[name].takes == takes


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("size", [1, 10**9], [0, -1, 1.0, True, "1", None]),
        ("share", [1e-9, 0.5, 1, 1.0], [0, 0.0, 1.1, nan, inf, True, "0.5"]),
        ("how", ["a", "b", "c"], ["", "d", 1, None]),
        ("wide", [True, False], [1, 0, "true", None]),
        ("free", [None, 1, "x", nan], []),
    ],
)
def test_values_are_checked(name, good, bad):
    for value in good:
        OPTIONS[name].check(value)
    for value in bad:
        with pytest.raises(ValueError, match=f"Expected {name}: .*; got {value!r}"):
            OPTIONS[name].check(value)


def test_many_values_are_checked_at_once():
    check_options(OPTIONS, {"size": 1, "how": "c"})
    with pytest.raises(ValueError, match=r"Expected how: a, b, c; got 'd'\."):
        check_options(OPTIONS, {"size": 1, "how": "d"})
    with pytest.raises(ValueError, match=r"Unknown options \['hwo'\]; known: \['size"):
        check_options(OPTIONS, {"hwo": "d"})


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"ge": 1}, 1, 0.99),
        ({"gt": 1}, 1.01, 1),
        ({"le": 1}, 1, 1.01),
        ({"lt": 1}, 0.99, 1),
        ({}, -1e300, inf),
    ],
)
def test_bounds_are_as_their_names_say(bounds, inside, outside):
    assert Range(**bounds).allows(inside)
    assert not Range(**bounds).allows(outside)


def test_a_dataclass_has_options_as_well():
    @dataclass(kw_only=True)
    class Rule:
        """A rule.

        Parameters
        ----------
        limit : float
            Where it ends.
        """

        limit: Annotated[float, Range(ge=0)] = 2.0

    assert options_of(Rule) == {
        "limit": Option(
            "limit", float, 2.0, range=Range(ge=0), meaning="Where it ends."
        )
    }
