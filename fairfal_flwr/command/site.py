"""The commands `fairfal site` and `fairfal clean`: what campaigns left on this host."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.command.runs import roughly
from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import LEDGERS, client_of, state_root

__all__ = ["clean", "site"]

HEADS = ("campaign", "client", "cycles", "asked", "labeled", "open", "age")
_DAY = 86_400.0
_MEBIBYTE = 1 << 20
StateDir = Annotated[
    str, typer.Option(help="Where the ledgers are; else the default folder.")
]


def site(state_dir: StateDir = "") -> None:
    """List what is asked of the clients here: cycles, questions, labels, what is open.

    From the ledgers alone, the newest campaign first. How good a model became is not
    in them: the server tests it.
    """
    root = state_root(state_dir)
    ledgers = sorted(root.glob(LEDGERS), key=_changed, reverse=True)
    if not ledgers:
        fail(f"There is no ledger below {root}; check --state-dir.", 2)
    rows: list[tuple[str, ...]] = [HEADS]
    damaged = 0
    for ledger in ledgers:
        try:
            rows.append(_row(ledger))
        except UserError as error:
            typer.echo(f"fairfal: {error}", err=True)
            damaged += 1
    for line in _aligned(rows):
        typer.echo(line)
    if damaged:
        raise typer.Exit(1)


def _row(path: Path) -> tuple[str, ...]:
    from fairfal_flwr.client.ledger import Ledger

    ledger = Ledger(path, None)
    return (
        path.parent.name,
        str(client_of(path)),
        str(ledger.last_cycle()),
        str(len(ledger.requested())),
        str(len(ledger.answered())),
        str(len(ledger.unanswered())),
        roughly(time.time() - _changed(path)),
    )


def _changed(path: Path) -> float:
    """Return when a ledger was last written, its log counted."""
    log = path.with_name(f"{path.name}-wal")
    return max(p.stat().st_mtime for p in (path, log) if p.exists())


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *cells])


@dataclass(frozen=True)
class _Old:
    """The state of a campaign that nobody has touched for long."""

    folder: Path
    days: float
    size: int
    answers_of_people: bool

    @property
    def line(self) -> str:
        people = ", with answers of people" if self.answers_of_people else ""
        size = f"{self.size / _MEBIBYTE:.1f} MiB"
        return f"{self.folder}: {size}, {self.days:.0f} days old{people}"


def clean(
    older_than: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Days without a change.")
    ] = 30.0,
    state_dir: StateDir = "",
    with_answers: Annotated[
        bool, typer.Option("--with-answers", help="Also what people have labeled.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the state of old campaigns here, after asking: ledgers and what is beside.

    A campaign in which people answered stays unless --with-answers is given. Shards
    that are kept ready go by themselves as `data.cache-mb` says; results are not
    touched.
    """
    found = sorted(
        (old for old in _campaigns(state_root(state_dir)) if old.days >= older_than),
        key=lambda old: -old.days,
    )
    chosen = [old for old in found if with_answers or not old.answers_of_people]
    for old in found:
        kept = "" if old in chosen else "  (stays: --with-answers removes it)"
        typer.echo(f"{old.line}{kept}")
    if not chosen:
        typer.echo("nothing to remove")
        return
    if not yes and not typer.confirm(f"Remove {len(chosen)} of them?"):
        typer.echo("nothing was removed")
        return
    for old in chosen:
        _remove(old.folder)


def _campaigns(root: Path) -> Iterator[_Old]:
    """Yield each folder of ledgers; what is none of ours is not looked at."""
    from fairfal_flwr.client.sheet import sheet_file

    ledgers: dict[Path, list[Path]] = {}
    for ledger in sorted(root.glob(LEDGERS)):
        ledgers.setdefault(ledger.parent, []).append(ledger)
    for folder, own in ledgers.items():
        files = [path for path in folder.rglob("*") if path.is_file()]
        newest = max(path.stat().st_mtime for path in files)
        yield _Old(
            folder,
            (time.time() - newest) / _DAY,
            sum(path.stat().st_size for path in files),
            any(sheet_file(ledger).exists() for ledger in own),
        )


def _remove(folder: Path) -> None:
    """Remove a campaign's folder, under another name first: all of it or nothing."""
    try:
        going = folder.with_name(f".{folder.name}.removed")
        folder.rename(going)
        shutil.rmtree(going)
    except OSError as error:
        fail(f"Cannot remove {folder}: {error.strerror or error}.", 1)
    typer.echo(f"removed: {folder}")
