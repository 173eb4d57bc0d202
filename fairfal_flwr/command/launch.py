"""Run a Flower app in Flower's simulation runtime, for this user alone.

`flwr run` would do it on a SuperLink, whose port takes code from whoever reaches it.
Here there is none: the runtime runs in a child of this process, and Ray, which it works
with, answers to a token that only this user's processes know. A guard between the two
ends the run, and all that it started, with this process.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.cli.utils import AppPathDepthError

from fairfal_flwr.command import guard
from fairfal_flwr.errors import UserError
from fairfal_flwr.malloc import MALLOC

__all__ = ["build_bundle", "is_noise", "names_in", "run_app"]

# What the processes of a run see unless the user has set it.
_DEFAULTS = {
    **{name: str(size) for name, size in MALLOC.items()},
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

_SIMULATE = Path(__file__).with_name("simulate.py")
_ORDER, _OUTCOME = "order.json", "outcome.json"

_NOISE = re.compile(
    r"Successfully installed \S+ to "
    r"|\(ClientAppActor pid=\d+\) .*Manually terminating ClientAppActor"
)


def build_bundle(app: Path) -> bytes:
    """Return an app's bundle (FAB): the files that travel to server and clients.

    Parameters
    ----------
    app : Path
        The app's folder.

    Raises
    ------
    UserError
        If Flower does not take it.
    """
    try:
        load_and_validate(app / "pyproject.toml")
        return build_fab_from_disk(app)
    except (AppPathDepthError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Flower does not take the app {app}: {reason}") from None


def names_in(bundle: bytes) -> set[str]:
    """Return the paths of a bundle's files, relative to the app's folder."""
    with ZipFile(BytesIO(bundle)) as archive:
        return set(archive.namelist())


def run_app(
    bundle: bytes,
    run_config: Mapping[str, Any] | None = None,
    *,
    num_supernodes: int,
    actors: int = 1,
    gpus_per_actor: float = 0.0,
    verbose: bool = False,
    echo: Callable[[str], object],
) -> str | None:
    """Run an app to its end.

    When an exception comes while the run goes on, such as `KeyboardInterrupt`, the run
    is killed: a campaign can be at every moment.

    Parameters
    ----------
    bundle : bytes
        The app, as `build_bundle` returns it.
    run_config : Mapping[str, Any], optional
        Values by dotted key that override the app's own.
    num_supernodes : int
        Simulated clients.
    actors : int, default 1
        Clients that compute at the same time, one CPU core each.
    gpus_per_actor : float, default 0.0
        Share of a GPU that each of them gets.
    verbose : bool, default False
        Let Flower log its progress, not only warnings and errors.
    echo : Callable[[str], object]
        Takes each line of the run's output as it comes, without its newline.

    Returns
    -------
    str or None
        Why the run did not complete; None if it did.

    Raises
    ------
    UserError
        If the app has something against the run, which was not begun then.
    """
    # Ray's sockets lie below this folder, and a socket's path must be short.
    home = Path(tempfile.mkdtemp(prefix="fairfal-", dir="/tmp"))
    order = {
        "outcome": str(home / _OUTCOME),
        "run-config": dict(run_config or {}),
        "num-supernodes": num_supernodes,
        "actors": actors,
        "gpus-per-actor": gpus_per_actor,
    }
    try:
        (home / "app.fab").write_bytes(bundle)
        (home / _ORDER).write_text(json.dumps(order), encoding="utf-8")
        (home / "work").mkdir()
        with _start(home, _environment(home, verbose=verbose)) as process:
            for line in process.stdout or ():
                echo(line.rstrip("\n"))
            outcome = _outcome(home)
        if refused := outcome.get("refused"):
            raise UserError(refused)
        return _ending(process.returncode, outcome.get("error"))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Start the run under its guard, in a folder of its own.

    Relative paths in a run config would mean that folder, and modules in the caller's
    folder cannot stand in for the app's.
    """
    command = [sys.executable, "-I", "-S", guard.__file__, str(home)]
    command += [sys.executable, "-P", str(_SIMULATE)]
    command += [str(home / "app.fab"), str(home / _ORDER)]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is for us
    )


def _environment(home: Path, *, verbose: bool) -> dict[str, str]:
    level = {} if verbose else {"FLWR_LOG_LEVEL": "WARNING"}
    private = {
        "FLWR_HOME": str(home),
        "RAY_TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        # Else Ray listens on all networks and runs code for whoever reaches a port.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone, on Linux too
    }
    if results := os.environ.get("FAIRFAL_HOME"):  # as seen from the caller's folder
        private["FAIRFAL_HOME"] = str(Path(results).absolute())
    environment = _DEFAULTS | level | dict(os.environ) | private
    environment.pop("RAY_ADDRESS", None)  # of a cluster that is not this run's
    return environment


def _outcome(home: Path) -> dict[str, str]:
    """Return why the run says that it failed, or was not begun."""
    try:
        outcome = json.loads((home / _OUTCOME).read_bytes())
    except FileNotFoundError:
        return {}
    return {key: " ".join(str(text).split()) for key, text in outcome.items()}


def _ending(status: int, reason: str | None) -> str | None:
    if status == 0:
        return None
    if reason is None and status > 128:
        return f"its process was killed by signal {status - 128}"
    return reason or f"its process ended with status {status}"


def is_noise(line: str) -> bool:
    """Tell whether a line of a run's output is only Flower's or Ray's routine.

    Examples
    --------
    >>> is_noise("Successfully installed fairfal-flwr to /tmp/fairfal-1/apps/fairfal.")
    True
    >>> is_noise("Cycle 1 of 6: 5 clients label 36 images each")
    False
    """
    return _NOISE.match(line) is not None
