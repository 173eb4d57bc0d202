"""The lines that a person sees while a run goes on."""

import logging
import sys

__all__ = ["quiet_flower", "show_log"]


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
