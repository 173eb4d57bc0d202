"""Where the services of a compose file run on this machine, and how they meet.

With the right to make network namespaces every service has one of its own, with an
address and a hosts file, as it has with Docker: its command runs as it stands in the
file. Without, all of them share 127.0.0.1, and ports are exchanged for free ones.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from superlink import free_port

_ADDRESS = re.compile(r'([\w.-]+)(:|", )(\d+)')  # host:1 or, in Python, "host", 1
_HUB = "hub"
_serial = itertools.count()


class Network(Protocol):
    """What a federation needs to know of a network."""

    def enter(self, service: str, aliases: Mapping[str, str]) -> list[str]:
        """Return the command that the service's own command is appended to.

        `aliases` says which service it meets under another one's name.
        """
        ...

    def translate(
        self, service: str, words: list[str], aliases: Mapping[str, str]
    ) -> list[str]:
        """Return a service's command as it must be said here."""
        ...

    def close(self) -> None:
        """Remove what was made."""
        ...


def make_network(folder: Path, services: Iterable[str]) -> Network:
    """Make the most real network that this machine allows."""
    if os.environ.get("FAIRFAL_TEST_NETWORK") != "loopback" and can_make_namespaces():
        return Namespaces(folder, services)
    return Loopback()


def can_make_namespaces() -> bool:
    """Try it: the right may be missing even for root, in a container."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    name = f"fairfal-try-{os.getpid()}"
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
        ["ip", "-n", name, "link", "add", "br0", "type", "bridge"],
        ["ip", "netns", "exec", name, "true"],
    ]
    try:
        return all(
            subprocess.run(command, capture_output=True).returncode == 0
            for command in commands
        )
    except FileNotFoundError:
        return False
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Namespaces:
    """One network namespace per service, all on one bridge in one more."""

    def __init__(self, folder: Path, services: Iterable[str]) -> None:
        self.folder = folder
        self.prefix = f"fairfal-{os.getpid()}-{next(_serial)}"
        self.addresses = {
            service: f"10.99.0.{number}" for number, service in enumerate(services, 1)
        }
        self._add(_HUB)
        self._ip(_HUB, "link add br0 type bridge", "link set br0 up")
        for number, (service, address) in enumerate(self.addresses.items(), 1):
            self._add(service)
            other = self._name(service)
            self._ip(
                _HUB,
                f"link add v{number} type veth peer name eth0 netns {other}",
                f"link set v{number} master br0 up",
            )
            self._ip(
                service,
                "link set lo up",
                f"address add {address}/24 dev eth0",
                "link set eth0 up",
            )

    def enter(self, service: str, aliases: Mapping[str, str]) -> list[str]:
        """Enter the namespace, with a hosts file that only this process tree sees."""
        hosts = self.folder / f"{service}.hosts"
        known = self.addresses | {
            name: self.addresses[other] for name, other in aliases.items()
        }
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, address in known.items()]
        hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        command = ["ip", "netns", "exec", self._name(service)]
        return [*command, "sh", "-c", script, str(hosts)]

    def translate(
        self, service: str, words: list[str], aliases: Mapping[str, str]
    ) -> list[str]:
        """Change nothing."""
        return words

    def close(self) -> None:
        """Delete the namespaces; their links go with them."""
        for service in [*self.addresses, _HUB]:
            subprocess.run(["ip", "netns", "del", self._name(service)], check=True)

    def _name(self, service: str) -> str:
        return f"{self.prefix}-{service}"

    def _add(self, service: str) -> None:
        subprocess.run(["ip", "netns", "add", self._name(service)], check=True)

    def _ip(self, service: str, *lines: str) -> None:
        subprocess.run(
            ["ip", "-n", self._name(service), "-batch", "-"],
            input="\n".join(lines).encode(),
            check=True,
        )


class Loopback:
    """All services on 127.0.0.1; each one's ports are exchanged for free ones."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, str], int] = {}

    def enter(self, service: str, aliases: Mapping[str, str]) -> list[str]:
        """Enter nothing."""
        return []

    def translate(
        self, service: str, words: list[str], aliases: Mapping[str, str]
    ) -> list[str]:
        """Exchange `--host`, `--port` and every `service:port`."""

        def meet(match: re.Match[str]) -> str:
            host, between, port = match.groups()
            other = service if host in ("127.0.0.1", "localhost") else host
            return f"127.0.0.1{between}{self._port(aliases.get(other, other), port)}"

        translated = [_ADDRESS.sub(meet, word) for word in words]
        if "--port" in words:
            place = words.index("--port") + 1
            translated[place] = str(self._port(service, words[place]))
            translated[words.index("--host") + 1] = "127.0.0.1"
        return translated

    def close(self) -> None:
        """Nothing was made."""

    def _port(self, service: str, port: str) -> int:
        return self.ports.setdefault((service, port), free_port())
