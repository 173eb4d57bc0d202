"""Where a run's files live: per-user folders, never the working directory."""

import os
from pathlib import Path

import platformdirs

__all__ = [
    "CODE",
    "LEDGERS",
    "client_of",
    "home",
    "ledger_file",
    "nearest_existing",
    "output_root",
    "site_book",
    "state_root",
]

CODE = Path(__file__).parent  # of this package
LEDGERS = "*/client-*.sqlite"  # below `state_root`


def home() -> Path:
    """Return the per-user data folder; the variable `FAIRFAL_HOME` overrides it."""
    override = os.environ.get("FAIRFAL_HOME")
    return Path(override) if override else platformdirs.user_data_path("fairfal")


def output_root(output_dir: str) -> Path:
    """Return the absolute folder that holds one folder of results per run."""
    return (Path(output_dir) if output_dir else home() / "runs").expanduser().absolute()


def state_root(state_dir: str) -> Path:
    """Return the absolute folder that holds one folder of ledgers per campaign."""
    return (Path(state_dir) if state_dir else home() / "state").expanduser().absolute()


def site_book() -> Path:
    """Return the file of what a site counts over all runs; no run says where it is."""
    return home().expanduser().absolute() / "site.sqlite"


def ledger_file(state_dir: str, campaign: str, client: int) -> Path:
    """Return where a client's ledger of a campaign is."""
    return state_root(state_dir) / campaign / f"client-{client:04d}.sqlite"


def client_of(ledger: Path) -> int:
    """Return whose ledger a file is.

    Examples
    --------
    >>> client_of(ledger_file("", "a-run", 12))
    12
    """
    return int(ledger.stem.removeprefix("client-"))


def nearest_existing(folder: Path) -> Path:
    """Return a folder, or the one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())
