"""The clients whose questions are served: all of one campaign that have a sheet."""

from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from fairfal_flwr.annotate.askers import ledgers_with_sheet
from fairfal_flwr.annotate.desk import Desk

__all__ = ["Site"]


@dataclass
class Site:
    """What a state folder holds for people.

    Parameters
    ----------
    root : Path
        Holds a folder per campaign.
    campaign : str
        Which one; empty for that whose sheet is the newest.
    client : int or None
        Which of its clients; None for all.
    votes : int or None
        People who must agree; None for what a client's sheet says.
    """

    root: Path
    campaign: str = ""
    client: int | None = None
    votes: int | None = None
    _desks: dict[str, Desk] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def desks(self) -> list[Desk]:
        """Return the desks that are open now, by client; none before the first query.

        Raises
        ------
        UserError
            If a ledger or a sheet is damaged.
        """
        ledgers = ledgers_with_sheet(self.root, self.campaign, self.client)
        return [self._desk_at(path) for path in ledgers]

    def desk(self, key: str) -> Desk | None:
        """Return a desk that was given out before."""
        return self._desks.get(key)

    def _desk_at(self, ledger: Path) -> Desk:
        key = blake2b(str(ledger).encode(), digest_size=8).hexdigest()
        with self._lock:
            if key not in self._desks:
                self._desks[key] = Desk(key, ledger, self.votes)
            return self._desks[key]
