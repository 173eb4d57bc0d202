"""Clients that asked people something, as their files below a state folder say."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.sheet import Sheet, read_sheet, sheet_file
from fairfal_flwr.errors import UserError

__all__ = ["Asker", "askers", "ledgers_with_sheet"]

SHEETS = "client-*.sheet.json"


@dataclass(frozen=True)
class Asker:
    """A client with questions.

    Parameters
    ----------
    ledger : Ledger
        What it asked and what was answered.
    sheet : Sheet
        Which images and classes that is about.
    """

    ledger: Ledger
    sheet: Sheet


def askers(root: Path, campaign: str, client: int | None) -> list[Asker]:
    """Open the ledgers of one campaign whose clients asked something.

    Parameters
    ----------
    root : Path
        Holds a folder per campaign.
    campaign : str
        Which one; empty for that whose sheet is the newest.
    client : int or None
        Which of its clients; None for all.

    Raises
    ------
    UserError
        If there is none, or a ledger or a sheet is damaged.
    """
    paths = ledgers_with_sheet(root, campaign, client)
    if not paths:
        who = "No client" if client is None else f"No client {client}"
        what = f"campaign {campaign!r}" if campaign else "any campaign"
        raise UserError(
            f"{who} of {what} has asked people anything below {root}; check "
            "--state-dir, --campaign and --client."
        )
    return [Asker(Ledger(path, None), read_sheet(sheet_file(path))) for path in paths]


def ledgers_with_sheet(root: Path, campaign: str, client: int | None) -> list[Path]:
    """Return the ledgers of one campaign whose clients asked something, by client.

    Parameters
    ----------
    root, campaign, client
        As for `askers`.
    """
    folder = root / campaign if campaign else _newest(root.glob(f"*/{SHEETS}"))
    if folder is None:
        return []
    ledgers = [_ledger_of(sheet) for sheet in sorted(folder.glob(SHEETS))]
    if client is not None:
        ledgers = [path for path in ledgers if path.stem == f"client-{client:04d}"]
    return [path for path in ledgers if path.exists()]


def _ledger_of(sheet: Path) -> Path:
    return sheet.with_name(sheet.name.removesuffix(".sheet.json") + ".sqlite")


def _newest(sheets: Iterable[Path]) -> Path | None:
    newest = max(sheets, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest.parent if newest else None
