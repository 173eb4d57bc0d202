"""Plain `flwr run`, on a SuperLink that the tests start and stop.

`fairfal run` has none; a test that wants Flower's own way from `flwr run` to the
ServerApp takes this one. Its port is open to every user of this host while it lasts.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from flwr.common.config import unflatten_dict

from fairfal_flwr.command import guard, launch

COMPLETED = "finished:completed"
SECONDS = 120.0
BIN = str(Path(sys.executable).parent)  # Flower's programs, also outside its venv
_CONNECTION = "tests"
_STARTED = re.compile(r"Successfully started run (\d+)")


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink that listens."""

    address: str
    home: Path
    environment: Mapping[str, str]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_superlink() -> Iterator[SuperLink]:
    """Start a simulation SuperLink, and end it with all that it started."""
    # Ray's sockets lie below this folder, and a socket's path must be short.
    with tempfile.TemporaryDirectory(
        prefix="fairfal-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        home = Path(folder)
        address = f"127.0.0.1:{free_port()}"
        own = {"PATH": os.pathsep.join([BIN, os.environ.get("PATH", os.defpath)])}
        environment = launch._environment(home, verbose=False) | own
        link = SuperLink(address, home, environment)
        connection = {_CONNECTION: {"address": address, "insecure": True}}
        (home / "config.toml").write_text(tomli_w.dumps({"superlink": connection}))
        process = _start(link)
        try:
            _wait_until(lambda: process.poll() is not None or _is_healthy(address))
            assert process.poll() is None, (home / "superlink.log").read_text()
            yield link
        finally:
            process.kill()
            process.wait()
            _end_all(home)


def _start(link: SuperLink) -> "subprocess.Popen[bytes]":
    host, _, port = link.address.partition(":")
    command = ["flower-superlink", "--insecure", "--simulation"]
    command += ["--host", host, "--port", port]
    command += ["--disable-runtime-dependency-installation"]
    with (link.home / "superlink.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=link.home,  # Ray would import the app's modules from here first
            env=link.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end_all(home: Path) -> None:
    def none_left() -> bool:
        pids = guard.processes(home)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        return not pids

    _wait_until(none_left)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def run_app(
    link: SuperLink,
    app: Path,
    run_config: Mapping[str, Any],
    *,
    num_supernodes: int,
    actors: int = 1,
    echo: Callable[[str], object],
) -> dict[str, Any]:
    """Run an app to its end by `flwr run`; return Flower's record of the run."""
    file = link.home / "run-config.toml"
    file.write_text(tomli_w.dumps(unflatten_dict(dict(run_config))))
    federation = f"num-supernodes={num_supernodes} client-resources-num-cpus=1 "
    federation += f"client-resources-num-gpus=0.0 init-args-num-cpus={actors}"
    command = ["flwr", "run", str(app), _CONNECTION, "--stream"]
    command += ["--federation-config", federation, "--run-config", str(file)]
    lines = []
    with subprocess.Popen(
        command,
        env=link.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            echo(lines[-1])
    match = _STARTED.search("\n".join(lines))
    assert match, lines
    return _final_record(link, match[1])


def _final_record(link: SuperLink, run_id: str) -> dict[str, Any]:
    record: dict[str, Any] = {}
    command = ["flwr", "list", _CONNECTION, "--run-id", run_id, "--format", "json"]

    def finished() -> bool:
        reply = subprocess.run(
            command, env=link.environment, capture_output=True, text=True
        ).stdout
        record.update(json.loads(reply)["runs"][0])
        return bool(record["status"].startswith("finished"))

    _wait_until(finished)
    return record
