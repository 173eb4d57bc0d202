"""What runs and listens on this host, from `/proc`."""

import time
from collections.abc import Callable
from pathlib import Path

from fairfal_flwr.command.guard import _read


def processes_with(variable: str) -> list[int]:
    """Return the processes whose environment holds `NAME=value`."""
    return [
        int(file.parent.name)
        for file in Path("/proc").glob("[0-9]*/environ")
        if variable.encode() in _read(file).split(b"\0")
    ]


def name_of(pid: int) -> str:
    """Return what a process calls itself."""
    return _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode()


def environment_of(pid: int) -> dict[str, str]:
    """Return a process's environment."""
    entries = _read(Path(f"/proc/{pid}/environ")).decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
    status = _read(Path(f"/proc/{pid}/status")).decode()
    (caught,) = (x.split()[1] for x in status.splitlines() if x.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def listening(pids: list[int]) -> dict[int, str]:
    """Return the TCP ports that processes listen on, and the address of each."""
    links = (link for pid in pids for link in Path(f"/proc/{pid}/fd").glob("*"))
    sockets = set()
    for link in links:
        try:
            sockets.add(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    return {
        int(port, 16): address
        for table in ("tcp", "tcp6")
        for address, port, inode in _listeners(Path("/proc/net") / table)
        if f"socket:[{inode}]" in sockets
    }


def _listeners(table: Path) -> list[tuple[str, str, str]]:
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return [(*row[1].split(":"), row[9]) for row in rows if row[3] == "0A"]


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait, and fail when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
