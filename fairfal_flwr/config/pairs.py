"""Values as they are typed: `key=value` pairs, text in quotes where it has blanks."""

import re
import tomllib
from collections.abc import Callable, Iterator

from fairfal_flwr.config.section import Scalar

__all__ = ["PAIR", "left_over", "read_options", "read_pairs"]

PAIR = re.compile(r"""([^\s=]+)=('[^']*'|"[^"]*"|\S+)""")
_BOOLEANS = {"True": True, "False": False}


def read_pairs(
    text: str, means_text: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, Scalar]]:
    """Yield the pairs in a text; what is none is `left_over`.

    Parameters
    ----------
    text : str
        Such as ``a=1 b="two words" c=word``. A word that is no number, true or false
        is text, as is all behind a key that means text. Python's words for true and
        false do.
    means_text : callable, optional
        Whether a key takes text.

    Examples
    --------
    >>> dict(read_pairs("a=1 b='two words' c=word d=True"))
    {'a': 1, 'b': 'two words', 'c': 'word', 'd': True}
    """
    for key, word in PAIR.findall(text):
        yield key, _value(word, means_text(key))


def read_options(text: str) -> dict[str, Scalar]:
    """Return options that are typed as pairs, by name.

    Raises
    ------
    ValueError
        If a word is no pair.

    Examples
    --------
    >>> read_options("radius=0.5 rounds=3")
    {'radius': 0.5, 'rounds': 3}
    """
    if words := left_over(text):
        raise ValueError(f"{words[0]!r} is no pair; allowed: such as 'radius=0.5'")
    return dict(read_pairs(text))


def left_over(text: str) -> list[str]:
    """Return the words that are no pair.

    Examples
    --------
    >>> left_over("seed=1 and more")
    ['and', 'more']
    """
    return PAIR.sub(" ", text).split()


def _value(word: str, text_is_meant: bool) -> Scalar:
    try:
        value = tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word if text_is_meant else _BOOLEANS.get(word, word)
    is_as_meant = isinstance(value, str if text_is_meant else Scalar)
    return value if is_as_meant else word
