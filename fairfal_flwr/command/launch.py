"""Run a Flower app on a SuperLink of its own, and tell how the run really ended.

`flwr run` alone leaves a daemon behind that keeps the environment it was born in, and
exits 0 even when the run failed. Here everything is private to one caller: a SuperLink
on a free port of this machine, with a temporary home, gone when the caller is done.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import tomli_w
from flwr.common.config import (
    flatten_dict,
    get_project_config,
    parse_config_args,
    unflatten_dict,
)

from fairfal_flwr.device import MALLOC
from fairfal_flwr.errors import UserError

__all__ = [
    "COMPLETED",
    "SuperLink",
    "free_port",
    "is_noise",
    "local_superlink",
    "merge_run_config",
    "run_app",
]

COMPLETED = "finished:completed"

_CONNECTION = "fairfal"
_STARTUP_SECONDS = 120.0
_SHUTDOWN_SECONDS = 5.0
_COMMAND_SECONDS = 60.0

# What the processes of a run see unless the user has set it.
_DEFAULTS = {
    **{name: str(size) for name, size in MALLOC.items()},
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_STARTED = re.compile(r"Successfully started run (\d+)")
_NOISE = re.compile(
    r"Using SuperLink: "
    r"|Successfully started run \d+"
    r"|Successfully installed \S+ to "
    r"|.*WARNING.* Since flwr 1\.32, default simulated SuperNodes changed"
    r"|\(ClientAppActor pid=\d+\) .*Manually terminating ClientAppActor"
)


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink that this process started and will stop.

    Attributes
    ----------
    address : str
        Host and port of its HTTP API.
    home : Path
        Its temporary ``FLWR_HOME``; every process it starts carries that variable.
    environment : Mapping[str, str]
        What it, its children and every `flwr` command about it run in.
    """

    address: str
    home: Path
    environment: Mapping[str, str]

    @property
    def log(self) -> Path:
        """The file that holds its own output."""
        return self.home / "superlink.log"


def merge_run_config(app: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the run config that a run of an app would get.

    Parameters
    ----------
    app : Path
        The app's folder, with its ``pyproject.toml``.
    overrides : Iterable[str]
        Each a TOML file's path or key-value pairs in Flower's syntax; the later wins.

    Returns
    -------
    dict[str, Any]
        Values by dotted key.

    Raises
    ------
    UserError
        If the app or an override cannot be read.
    """
    try:
        project = get_project_config(app)
        config = flatten_dict(project["tool"]["flwr"]["app"].get("config"))
    except (OSError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from None
    for text in overrides:
        config |= _read_override(text)
    return dict(config)


def _read_override(text: str) -> dict[str, Any]:
    try:
        values = parse_config_args([text])
    except OSError as error:
        raise UserError(f"Cannot read {text}: {error.strerror}.") from None
    except click.ClickException:
        values = {}
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise UserError(f"Cannot read {text}: {error}") from None
    if not values and not text.endswith(".toml"):
        raise UserError(
            f"Cannot read the run config `{text}`: write key=value pairs, text in "
            "quotes, such as 'seed=1 query.strategy=\"random\"', or name a .toml file."
        )
    return values


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_superlink(*, verbose: bool = False) -> Iterator[SuperLink]:
    """Start a simulation SuperLink, and stop it with all that it started.

    Its processes work in a folder of their own: relative paths in a run config would
    mean that one, and modules in the caller's folder cannot stand in for the app's.

    Parameters
    ----------
    verbose : bool, default False
        Let Flower log its progress, not only warnings and errors.

    Yields
    ------
    SuperLink
        Ready to take runs.

    Raises
    ------
    UserError
        If it does not get ready.
    """
    # Ray's sockets lie below this folder, and a socket's path must be short.
    with tempfile.TemporaryDirectory(
        prefix="fairfal-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        home = Path(folder)
        address = f"127.0.0.1:{free_port()}"
        link = SuperLink(address, home, _environment(home, verbose=verbose))
        _write_connection(link)
        process = _start(link)
        try:
            _wait_until_ready(link, process)
            yield link
        finally:
            _stop(link, process)


def _environment(home: Path, *, verbose: bool) -> dict[str, str]:
    level = {} if verbose else {"FLWR_LOG_LEVEL": "WARNING"}
    tools = str(Path(sys.executable).parent)
    private = {
        "FLWR_HOME": str(home),
        "RAY_TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", os.defpath)]),
    }
    if results := os.environ.get("FAIRFAL_HOME"):  # as seen from the caller's folder
        private["FAIRFAL_HOME"] = str(Path(results).absolute())
    return _DEFAULTS | level | dict(os.environ) | private


def _write_connection(link: SuperLink) -> None:
    connection = {"address": link.address, "insecure": True}
    config = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
    (link.home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")


def _start(link: SuperLink) -> subprocess.Popen[bytes]:
    host, _, port = link.address.partition(":")
    command = ["flower-superlink", "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", host, "--port", port]
    command += ["--disable-runtime-dependency-installation"]
    with link.log.open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=link.home,  # Ray would import the app's modules from here first
            env=link.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we stop it in order
        )


def _wait_until_ready(link: SuperLink, process: subprocess.Popen[bytes]) -> None:
    def done() -> bool:
        return process.poll() is not None or _is_healthy(link.address)

    if _wait_until(done, _STARTUP_SECONDS) and process.poll() is None:
        return
    lines = link.log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = lines[-1] if lines else "it said nothing"
    raise UserError(f"The SuperLink on {link.address} did not start: {last}")


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(link: SuperLink, process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        _wait_until(lambda: process.poll() is not None, _SHUTDOWN_SECONDS)
        _wait_until(lambda: not _processes(link.home), _SHUTDOWN_SECONDS)
    finally:  # also when an impatient user presses Ctrl-C again
        process.kill()
        process.wait()
        for pid in _processes(link.home):
            _kill(pid)


def _processes(home: Path) -> list[int]:
    """Return the processes that carry the home's path (Linux; elsewhere none).

    A run's processes are in other sessions and outlive the SuperLink, and Ray's agents
    outlive the run by half a minute; the path is unique, so no other process has it.
    """
    marker = f"FLWR_HOME={home}".encode()
    return [
        int(file.parent.name)
        for file in Path("/proc").glob("[0-9]*/environ")
        if marker in _read_bytes(file).split(b"\0")
    ]


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process ended, or is somebody else's
        return b""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended by itself
        return


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def run_app(
    link: SuperLink,
    app: Path,
    run_config: Mapping[str, Any] | None = None,
    *,
    num_supernodes: int,
    actors: int = 1,
    gpus_per_actor: float = 0.0,
    echo: Callable[[str], object],
) -> dict[str, Any]:
    """Run an app to its end.

    When an exception comes while the run goes on, such as `KeyboardInterrupt`, the run
    is stopped first.

    Parameters
    ----------
    link : SuperLink
        Where to run it.
    app : Path
        The app's folder; its name must start with a letter, letters, digits and
        hyphens only.
    run_config : Mapping[str, Any] or None
        Values by dotted key that override the app's own.
    num_supernodes : int
        Simulated clients.
    actors : int, default 1
        Clients that compute at the same time, one CPU core each.
    gpus_per_actor : float, default 0.0
        Share of a GPU that each of them gets.
    echo : Callable[[str], object]
        Takes each line of the run's output as it comes, without its newline.

    Returns
    -------
    dict[str, Any]
        Flower's record of the run: ``run-id``, ``status`` (`COMPLETED` if all went
        well), ``status-details`` and more.

    Raises
    ------
    UserError
        If Flower did not accept the run; `echo` got its reason.
    """
    command = ["run", str(app), _CONNECTION, "--stream", "--federation-config"]
    command += [_federation_config(num_supernodes, actors, gpus_per_actor)]
    if run_config:
        command += ["--run-config", str(_write_run_config(link.home, run_config))]
    run_id = _stream(link, command, echo)
    return _final_record(link, run_id)


def _federation_config(num_supernodes: int, actors: int, gpus: float) -> str:
    values = {
        "num-supernodes": num_supernodes,
        "client-resources-num-cpus": 1,
        "client-resources-num-gpus": gpus,
        "init-args-num-cpus": actors,
    }
    return " ".join(f"{key}={value}" for key, value in values.items())


def _write_run_config(home: Path, values: Mapping[str, Any]) -> Path:
    file = home / "run-config.toml"
    text = tomli_w.dumps(unflatten_dict(dict(values)))
    file.write_text(text, encoding="utf-8")
    return file


def _stream(link: SuperLink, command: list[str], echo: Callable[[str], object]) -> str:
    """Run a `flwr run --stream` command and return the run's id."""
    run_id = None
    with subprocess.Popen(
        ["flwr", *command],
        env=link.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                if run_id is None and (match := _STARTED.match(line)):
                    run_id = match[1]
                echo(line.rstrip("\n"))
        except BaseException:
            try:
                if run_id:
                    _flwr(link, "stop", run_id, _CONNECTION)
            finally:
                process.terminate()
            raise
    if run_id is None:
        raise UserError("Flower did not start the run; its reason stands above.")
    return run_id


def _flwr(link: SuperLink, *arguments: str) -> str:
    """Run a short `flwr` command and return what it printed."""
    return subprocess.run(
        ["flwr", *arguments],
        env=link.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        start_new_session=True,
    ).stdout


def _final_record(link: SuperLink, run_id: str) -> dict[str, Any]:
    """Return Flower's record of a run, finished unless that takes too long."""
    record: dict[str, Any] = {}

    def finished() -> bool:
        reply = _flwr(link, "list", _CONNECTION, "--run-id", run_id, "--format", "json")
        record.update(json.loads(reply)["runs"][0])
        return bool(record["status"].startswith("finished"))

    try:
        _wait_until(finished, _COMMAND_SECONDS)
    except (ValueError, LookupError):
        raise UserError(f"Flower cannot tell how run {run_id} ended.") from None
    return record


def is_noise(line: str) -> bool:
    """Tell whether a line of a run's output is only Flower's or Ray's routine.

    Examples
    --------
    >>> is_noise("Using SuperLink: fairfal (127.0.0.1:39093)")
    True
    >>> is_noise("Cycle 1 of 6: 5 clients label 36 images each")
    False
    """
    return _NOISE.match(line) is not None
