"""Run a command of which nothing outlives the caller, however the caller ends.

    python -I -S guard.py HOME COMMAND ...

The caller holds the other end of standard input: when that closes, as it does even
after `kill -9`, the command and all that it started are killed and the folder HOME is
removed. When the command ends first, what it left running is killed at once; the exit
status is the command's, 128 and the signal's number if a signal ended it.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["members", "processes"]

_SECONDS = 10.0


def processes(home: Path) -> list[int]:
    """Return the processes whose `FLWR_HOME` is a folder (Linux; elsewhere none)."""
    marker = f"FLWR_HOME={home}".encode()
    return [
        int(file.parent.name)
        for file in Path("/proc").glob("[0-9]*/environ")
        if marker in _read(file).split(b"\0")
    ]


def members(session: int) -> list[int]:
    """Return the processes of a session (Linux; elsewhere none)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        state, _, _, its, *_ = [*_read(file).rpartition(b")")[2].split(), 0, 0, 0, 0]
        if its and int(its) == session and state != b"Z":
            found.append(int(file.parent.name))
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process ended, or is somebody else's
        return b""


def main() -> int:
    """Guard one command; return its exit status."""
    home, *command = sys.argv[1:]
    process = subprocess.Popen(
        command,
        cwd=Path(home) / "work",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    _release_output()
    caller = threading.Thread(target=_wait_for_the_callers_end, args=[process])
    caller.start()
    status = process.wait()
    _end_all(process.pid, Path(home))
    caller.join()  # it may still read what lies in the folder
    shutil.rmtree(home, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _release_output() -> None:
    """Let the caller's end of the output close with the last process that writes."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)


def _wait_for_the_callers_end(process: "subprocess.Popen[bytes]") -> None:
    sys.stdin.buffer.read()
    process.kill()


def _end_all(group: int, home: Path) -> None:
    """Kill what is left: the command's group and session, and who carries the folder.

    One is not enough: Ray's workers write their title over their environment.
    """
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        left = {*processes(home), *members(group)} - {os.getpid()}
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
