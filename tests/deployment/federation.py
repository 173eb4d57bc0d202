"""A federation on this machine, started with the commands of compose files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w
from compose import mounts
from network import Network, make_network

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROXY = Path(__file__).with_name("proxy.py")
SECONDS = float(os.environ.get("FAIRFAL_TEST_SECONDS", "180"))  # for one step

# What runs in each of Flower's images.
_PROGRAMS = {
    "superlink": "flower-superlink",
    "supernode": "flower-supernode",
    "superexec": "flower-superexec",
}
_STARTED = re.compile(r"Successfully started run (\d+)")


class Federation:
    """Services of a compose file as processes, each in a folder of its own.

    A service's folder stands for the `/app` of its container: the volumes are links in
    it, and it is the working directory, so relative paths need no translation.

    Parameters
    ----------
    folder : Path
        Empty; for the services' folders and logs.
    services : Mapping[str, Any]
        As `compose.load` returns them.
    docker : Path
        What relative sources of volumes are relative to.
    aliases : Mapping[str, Mapping[str, str]], optional
        For a service, which one it meets under another one's name.
    """

    def __init__(
        self,
        folder: Path,
        services: Mapping[str, Any],
        docker: Path,
        aliases: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.folder, self.services, self.docker = folder, services, docker
        self.aliases = aliases or {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.network: Network = make_network(folder, [*services, "proxy", "user"])

    def start(self, *services: str) -> None:
        """Start services and wait until they are healthy."""
        for service in services:
            self._spawn(service, self.command(service), self._environment(service))
        for service in services:
            self._wait(lambda s=service: self.is_healthy(s), f"{service} is healthy")

    def start_again(self, supernode: str) -> None:
        """Start a SuperNode that was killed; wait until it is connected.

        The SuperLink turns it away until it has missed the old one's heartbeat, and
        its restart policy makes it come back.
        """
        before = len(self.log(supernode))
        self._spawn(supernode, self.command(supernode), self._environment(supernode))
        self._wait_back({supernode: before})

    def cut_and_start_again(self, superlink: str, *supernodes: str) -> None:
        """Kill the SuperLink, start it when its SuperNodes have noticed, wait for them.

        An idle SuperNode prints nothing until it cannot reach the SuperLink.
        """
        before = {name: len(self.log(name)) for name in supernodes}
        self.kill(superlink)
        self._wait(
            lambda: all(len(self.log(name)) > start for name, start in before.items()),
            f"every SuperNode has noticed that {superlink} is gone",
        )
        self.start(superlink)
        self._wait_back(before)

    def start_proxy(self, target: str) -> Path:
        """Start the proxy that stands for a service; return what it will write."""
        log = self.folder / "proxy.bytes"
        log.touch()
        port = self.services[target]["command"]
        port = port[port.index("--port") + 1]
        words = self.network.translate(
            "proxy", [f"127.0.0.1:{port}", f"{target}:{port}"], {}
        )
        if self.network.enter("proxy", {}):
            words[0] = f"0.0.0.0:{port}"
        command = [sys.executable, "-S", str(PROXY), *words, str(log)]
        self._spawn("proxy", command, dict(os.environ))
        return log

    def command(self, service: str, words: list[str] | None = None) -> list[str]:
        """Return a service's command as this machine must be told it."""
        entry = self.services[service].get("entrypoint")
        program = [str(BIN / _PROGRAMS[service.split("-")[0]])]
        if entry:
            assert entry[0] == "python"
            program = [sys.executable, *entry[1:]]
        words = self.services[service]["command"] if words is None else words
        words = self.network.translate(service, words, self.aliases.get(service, {}))
        translated = self._inside(service, words)
        if "--node-config" in words:  # is read where the ClientApp runs
            place = words.index("--node-config") + 1
            reader = service.replace("supernode", "superexec-clientapp")
            (translated[place],) = self._inside(reader, [words[place]])
        return [*program, *translated]

    def place(self, service: str) -> Path:
        """Return the folder that stands for a service's `/app`, with its volumes."""
        folder = self.folder / service
        for inside, (source, _) in mounts(self.services[service]).items():
            link = folder / Path(inside).relative_to("/app")
            if link.is_symlink():
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            outside = self.volume(source)
            if not outside.exists():
                outside.mkdir(parents=True)
            link.symlink_to(outside)
        folder.mkdir(exist_ok=True)
        return folder

    def volume(self, source: str) -> Path:
        """Return where a volume lies: a folder of ours for each named one."""
        if source.startswith("."):
            return (self.docker / source).absolute()
        if source.startswith("/"):
            return Path(source)
        return self.folder / "volumes" / source

    def log(self, service: str) -> str:
        """Return what a service has printed."""
        file = self.folder / f"{service}.log"
        return file.read_text(encoding="utf-8", errors="replace")

    def is_healthy(self, service: str) -> bool:
        """Run the service's own health check."""
        kind, *words = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        words = self.network.translate(service, words, {})
        done = subprocess.run(
            [*self._enter(service), sys.executable, *words[1:]],
            cwd=self.folder / service,
            capture_output=True,
        )
        return done.returncode == 0

    def run_service(self, service: str, words: list[str]) -> tuple[int, str]:
        """Run a service with another command to its end; return status and output."""
        done = subprocess.run(
            [*self._enter(service), *self.command(service, words)],
            cwd=self.place(service),
            env=self._environment(service),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout

    def connect_user(self, root_certificates: Path | None) -> None:
        """Write the user's Flower configuration."""
        (address,) = self.network.translate("user", ["superlink:8000"], {})
        trust: dict[str, Any] = {"insecure": True}
        if root_certificates:
            trust = {"root-certificates": str(root_certificates)}
        config = {"superlink": {"federation": {"address": address, **trust}}}
        home = self.folder / "user"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")

    def flwr(self, *arguments: str) -> str:
        """Run a `flwr` command as the user; return its output."""
        done = subprocess.run(
            self._flwr_command(*arguments),
            env=self._user_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return done.stdout + done.stderr

    def flwr_json(self, *arguments: str) -> dict[str, Any]:
        """Run a `flwr` command with `--format json`; return what it says."""
        output = self.flwr(*arguments, "--format", "json")
        answer: dict[str, Any] = json.loads(output[output.index("{") :])
        return answer

    def start_run(self, run_config: Mapping[str, Any]) -> "Run":
        """Submit a run of the app and stream it."""
        pairs = [f"{key}={json.dumps(value)}" for key, value in run_config.items()]
        command = self._flwr_command("run", str(ROOT), "federation", "--stream")
        file = self.folder / f"run-{time.monotonic_ns()}.log"
        with file.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--run-config", " ".join(pairs)],
                env=self._user_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return Run(self, process, file)

    def wait_online(self, *supernodes: str) -> None:
        """Wait until SuperNodes have their place in the federation."""
        for supernode in supernodes:
            self.wait_for_log(supernode, "SuperNode ID:")

    def statuses(self) -> dict[str, str]:
        """Return what the SuperLink says of its nodes, by id."""
        nodes = self.flwr_json("supernode", "list", "federation")["nodes"]
        return {str(node["node-id"]): node["status"] for node in nodes}

    def wait_for_log(self, service: str, text: str, count: int = 1) -> None:
        """Wait until a service has printed a text so many times."""
        self._wait(
            lambda: self.log(service).count(text) >= count,
            f"{service} says {text!r}",
        )

    def stop(self, *services: str) -> None:
        """Stop services in order."""
        for service in services:
            self.processes[service].terminate()
        for service in services:
            with suppress(subprocess.TimeoutExpired):
                self.processes[service].wait(10)
            self.kill(service)

    def kill(self, *services: str) -> None:
        """End services and all that they started at once, as a power cut does."""
        for service in services:
            process = self.processes.pop(service)
            with suppress(ProcessLookupError):  # its group: it is a session of its own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End everything."""
        self.kill(*list(self.processes))
        self.network.close()

    def _enter(self, service: str) -> list[str]:
        return self.network.enter(service, self.aliases.get(service, {}))

    def _inside(self, service: str, words: list[str]) -> list[str]:
        folder = self.place(service)
        return [word.replace("/app/", f"{folder}/") for word in words]

    def _spawn(
        self, service: str, command: list[str], environment: dict[str, str]
    ) -> None:
        (self.folder / service).mkdir(exist_ok=True)
        with (self.folder / f"{service}.log").open("ab") as log:
            self.processes[service] = subprocess.Popen(
                [*self._enter(service), *command],
                cwd=self.folder / service,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self, service: str) -> dict[str, str]:
        own = self.services[service].get("environment", {})
        values = [str(value) for value in own.values()]
        pairs = dict(zip(own, self._inside(service, values), strict=True))
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
        return {**os.environ, **pairs, "PATH": path, "PYTHONUNBUFFERED": "1"}

    def _user_environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
        home = str(self.folder / "user")
        return {**os.environ, "FLWR_HOME": home, "PATH": path, "COLUMNS": "200"}

    def _flwr_command(self, *arguments: str) -> list[str]:
        return [*self.network.enter("user", {}), str(BIN / "flwr"), *arguments]

    def _wait_back(self, before: Mapping[str, int]) -> None:
        """Wait until SuperNodes are connected, by what their logs say from there on."""
        for supernode, start in before.items():

            def is_connected(name: str = supernode, start: int = start) -> bool:
                last = self.log(name)[start:].rpartition("Starting Flower")[2]
                return "SuperNode ID:" in last or "Connection successful" in last

            self._wait(is_connected, f"{supernode} is connected")

    def _wait(
        self, condition: Callable[[], bool], what: str, seconds: float = SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            vain = f"waited in vain until {what}"
            assert time.monotonic() < deadline, f"{vain}\n{self._last_words()}"
            time.sleep(0.2)
            self._restart_what_ended()

    def _restart_what_ended(self) -> None:
        """Do what the services' restart policy tells Docker to do.

        A SuperLink that goes away in a TLS handshake makes Flower's clients give up:
        they take it for a certificate that is wrong.
        """
        for service, process in list(self.processes.items()):
            policy = self.services.get(service, {}).get("restart")
            if process.poll() is not None and policy == "unless-stopped":
                self.kill(service)  # what it left running
                time.sleep(1.0)  # Docker waits too, longer each time
                self._spawn(service, self.command(service), self._environment(service))

    def _last_words(self) -> str:
        """Return the end of each log, for whoever reads why a test failed."""
        files = sorted(self.folder.glob("*.log"))
        ends = [file.read_text(errors="replace").splitlines()[-12:] for file in files]
        named = zip(files, ends, strict=True)
        return "\n".join("\n".join([f"-- {f.name}", *lines]) for f, lines in named)


class Run:
    """A run that goes on."""

    def __init__(
        self, federation: Federation, process: subprocess.Popen[bytes], file: Path
    ) -> None:
        self.federation, self.process, self.file = federation, process, file

    @property
    def output(self) -> str:
        """What `flwr run` has printed."""
        return self.file.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> dict[str, Any]:
        """Wait for its end; return Flower's record of it."""
        self.federation._wait(
            lambda: self.process.poll() is not None, "`flwr run` ends", 3 * SECONDS
        )
        match = _STARTED.search(self.output)
        assert match, self.output
        record: dict[str, Any] = {}

        def finished() -> bool:
            answer = self.federation.flwr_json(
                "list", "federation", "--run-id", match[1]
            )
            record.update(answer["runs"][0])
            return bool(record["status"].startswith("finished"))

        self.federation._wait(finished, "the run is over")
        return record


@contextmanager
def federation(*arguments: Any, **options: Any) -> Iterator[Federation]:
    """Make a federation, and end all of its processes."""
    made = Federation(*arguments, **options)
    try:
        yield made
    finally:
        made.close()


def copy_docker(folder: Path) -> Path:
    """Copy `docker/` to where its relative volumes may lie."""
    ignored = shutil.ignore_patterns("credentials", "volumes", ".env")
    return Path(shutil.copytree(ROOT / "docker", folder, ignore=ignored))
