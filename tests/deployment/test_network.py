"""The networks that the federation's tests run in."""

import re

import compose
import pytest
from network import Loopback

SUPERNODE = "--superlink superlink:8000 --host 0.0.0.0 --port 9094 --node-config a=1"


def test_on_loopback_the_ports_of_a_service_are_the_same_for_everybody():
    network = Loopback()
    node = network.translate("supernode-1", SUPERNODE.split(), {})
    (met,) = network.translate("superexec-clientapp-1", ["supernode-1:9094"], {})
    assert met == f"127.0.0.1:{node[node.index('--port') + 1]}"
    assert node[node.index("--host") + 1] == "127.0.0.1"
    assert node[-1] == "a=1"


def test_on_loopback_each_service_has_ports_of_its_own():
    network = Loopback()
    health = [
        network.translate(service, ["127.0.0.1:9099"], {})[0]
        for service in ("superexec-clientapp-1", "superexec-clientapp-2")
    ]
    assert health[0] != health[1]
    assert (
        network.translate("superexec-clientapp-1", ["127.0.0.1:9099"], {}) == health[:1]
    )


def test_an_alias_stands_for_another_service():
    network = Loopback()
    (proxy,) = network.translate("proxy", ["127.0.0.1:8000"], {})
    aliases = {"superlink": "proxy"}
    assert network.translate("supernode-1", ["superlink:8000"], aliases) == [proxy]
    assert network.translate("supernode-2", ["superlink:8000"], {}) != [proxy]


@pytest.mark.parametrize("service", compose.load("compose.yml"))
def test_on_loopback_no_port_of_a_container_is_left(service):
    network = Loopback()
    described = compose.load("compose.yml")[service]
    words = described.get("command", []) + described.get("healthcheck", {}).get(
        "test", []
    )
    said = " ".join(network.translate(service, words, {}))
    numbers = set(re.findall(r"\d{4,}", said))
    assert numbers.isdisjoint({"8000", "9094", "9099"})
    assert {str(port) for port in network.ports.values()} <= numbers
