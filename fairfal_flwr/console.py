"""The lines that a person sees while a run goes on."""

import logging
import sys

__all__ = ["duration", "one_line", "quiet_flower", "show_log"]

LONGEST_LINE = 300


def show_log() -> None:
    """Print this package's log lines to standard output; twice changes nothing."""
    logger = logging.getLogger("fairfal")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def quiet_flower() -> None:
    """Hide Flower's own notes on each round; its warnings and errors stay."""
    logging.getLogger("flwr").setLevel(logging.WARNING)


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    r"""Return what somebody else wrote as one line that does nothing to a terminal.

    Whitespace becomes single blanks. What is not printable is escaped: control
    characters and with them ANSI's sequences, marks that turn the direction of
    writing, characters without a width, surrogates. What is longer than `longest`
    characters is cut.

    Examples
    --------
    >>> one_line("two\nlines, \x1b[31mred")
    'two lines, \\x1b[31mred'
    """
    line = " ".join(text[: 4 * longest].split())
    shown = "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode()
        for mark in line
    )
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def duration(seconds: float) -> str:
    """Return a time for people.

    Examples
    --------
    >>> duration(59.6), duration(3.2), duration(7380)
    ('1 min 0 s', '3 s', '2 h 3 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
