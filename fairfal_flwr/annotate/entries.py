"""What questions and answers are in a file, whatever its format."""

import re
from pathlib import Path
from typing import NamedTuple

from fairfal_flwr.errors import UserError

__all__ = ["Entry", "Item", "Said", "read_client", "read_sample", "sample_text"]


class Said(NamedTuple):
    """What one person says about an image.

    Parameters
    ----------
    answer : str or None
        The name of a class; None for "cannot tell".
    annotator : str
        Who; empty where a file does not say.
    at : str
        When, as ISO time; empty where nobody needs it.
    """

    answer: str | None
    annotator: str
    at: str = ""


class Item(NamedTuple):
    """A question that goes into a file.

    Parameters
    ----------
    campaign : str
        The run's name.
    client : int
        Who asks.
    sample_id : int
        Which image.
    file : Path
        Where it is; absolute.
    cycle : int
        When it was asked for.
    strategy : str
        What chose it.
    suggestion : str or None
        A guess of its class.
    score : float or None
        Why it was chosen; larger is more wanted.
    said : tuple of Said
        What stands.
    is_open : bool
        Whether somebody has to say more.
    """

    campaign: str
    client: int
    sample_id: int
    file: Path
    cycle: int
    strategy: str
    suggestion: str | None
    score: float | None
    said: tuple[Said, ...]
    is_open: bool


class Entry(NamedTuple):
    """What a file says about one question.

    Parameters
    ----------
    place : str
        Where it says so, for errors.
    campaign, client, sample_id
        Which question.
    said : tuple of Said
        Nothing, or what people said, the latest last.
    """

    place: str
    campaign: str
    client: int
    sample_id: int
    said: tuple[Said, ...]


def sample_text(sample_id: int) -> str:
    """Return a sample's id as text that no spreadsheet rounds.

    Examples
    --------
    >>> sample_text(4611686018427387905)
    's4611686018427387905'
    """
    return f"s{sample_id}"


def read_sample(text: str, place: str) -> int:
    """Return a sample's id, with or without its letter.

    Raises
    ------
    UserError
        If it is none.

    Examples
    --------
    >>> read_sample("s12", "line 2"), read_sample("12", "line 2")
    (12, 12)
    """
    found = re.fullmatch("s?([0-9]{1,19})", text)
    if not found:
        raise UserError(
            f"{place}: found sample {text!r}, allowed: what the export wrote, such as "
            "'s123'."
        )
    return int(found[1])


def read_client(text: str, place: str) -> int:
    """Return a client's index.

    Raises
    ------
    UserError
        If it is none.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"{place}: found client {text!r}, allowed: a number such as 0.")
    return int(text)
