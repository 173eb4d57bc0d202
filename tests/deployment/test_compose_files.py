"""`docker/`: valid, careful, and the same federation in every file."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import compose
import pytest
import typer
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_arguments
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from fairfal_flwr.command import cli

BIN = Path(sys.executable).parent
BASE = ("compose.yml",)
TLS = ("compose.yml", "with-tls.yml")
EVERYTHING = ("compose.yml", "with-tls.yml", "with-state.yml", "with-gpu.yml")
SERVER, CLIENT = "server/compose.yml", "client/compose.yml"
PARSERS = {
    "superlink": _parse_args_run_superlink,
    "supernode": _parse_args_run_supernode,
    "superexec": superexec_arguments,
}
ONE_SHOT = {"prepare", "certs"}


def variables(file):
    return compose.environment(f"{Path(file).parent}/.env.example")


def services_of(*names):
    example = variables(names[0]) if names[0] in (SERVER, CLIENT) else {}
    return compose.load(*names, variables=example)


def parsed(service, words) -> argparse.Namespace:
    return PARSERS[service.split("-")[0]]().parse_args(words)


@pytest.fixture(params=[BASE, TLS, EVERYTHING, (SERVER,), (CLIENT,)], ids="+".join)
def services(request):
    return services_of(*request.param)


@pytest.fixture
def lasting(services):
    return {name: s for name, s in services.items() if name not in ONE_SHOT}


def test_the_files_follow_the_compose_specification():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, *compose.FILES], capture_output=True, text=True)
    assert len(compose.FILES) == 8
    assert done.returncode == 0, done.stdout


def test_hadolint_has_nothing_to_say_about_the_dockerfile():
    done = subprocess.run(
        [BIN / "hadolint", compose.DOCKER / "Dockerfile"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_flower_accepts_every_command(lasting):
    for name, service in lasting.items():
        if name != "annotate":
            parsed(name, service["command"])


def test_the_page_is_the_hosts_own_and_sees_what_the_client_sees():
    page = services_of(CLIENT)["annotate"]
    client = services_of(CLIENT)["superexec-clientapp"]
    assert page["ports"] == ["127.0.0.1:8080:8080"]
    assert page["entrypoint"] == ["fairfal"]
    command = typer.main.get_command(cli.app).commands["annotate"]
    options = command.make_context("annotate", page["command"][1:]).params
    assert (options["host"], options["port"]) == ("0.0.0.0", 8080)
    assert page["environment"]["FAIRFAL_HOME"] == client["environment"]["FAIRFAL_HOME"]
    places = compose.mounts(client)
    del places["/app/keys/superexec.secret"]
    assert compose.mounts(page) == places
    assert page["image"] == client["image"]
    assert page["build"] == client["build"]
    assert set(page["networks"]).isdisjoint(client["networks"])
    overlay = compose.load(CLIENT, "client/with-gpu.yml", variables=variables(CLIENT))
    assert overlay["annotate"]["image"] == overlay["superexec-clientapp"]["image"]


def test_every_service_is_careful(services):
    for name, service in (services | services_of("certs.yml")).items():
        assert service["user"] == "49999:49999", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert 0 < service["pids_limit"] <= 1024, name
        assert re.fullmatch(r"\d+[gm]", service["mem_limit"]), name


def test_what_lasts_comes_back_and_says_how_it_is(lasting):
    for name, service in lasting.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name


def test_what_is_not_to_be_written_is_mounted_read_only(lasting):
    for service in lasting.values():
        writable = {
            inside
            for inside, (_, is_writable) in compose.mounts(service).items()
            if is_writable
        }
        assert writable <= {"/app/state", "/app/results", "/app/labels"}


def test_ledgers_results_and_database_are_on_volumes(lasting):
    for name, service in lasting.items():
        places = compose.mounts(service)
        if name == "superlink":
            assert "/app/state" in places
            assert parsed(name, service["command"]).database == "state/state.db"
        elif name.startswith("superexec"):
            assert service["environment"]["FAIRFAL_HOME"] in places


def test_images_are_pinned(services):
    flower = re.search(
        r"^ARG FLOWER=(\S+)", (compose.DOCKER / "Dockerfile").read_text(), re.MULTILINE
    )
    assert flower is not None
    assert flower[1].startswith("1.42.0-")
    for service in services.values():
        repository, tag = service["image"].split(":")
        expected = "1.42.0" if repository.startswith("flwr/") else "0.1.0"
        assert tag.removesuffix("-cuda") == expected


def test_the_images_are_flwrs_version_that_is_tested():
    constraints = (compose.DOCKER.parent / "constraints.txt").read_text()
    assert "\nflwr==1.42.0\n" in constraints


def test_with_tls_nothing_crosses_hosts_in_the_clear():
    for services in (services_of(*TLS), services_of(SERVER), services_of(CLIENT)):
        for name, service in services.items():
            if name in ONE_SHOT or name == "annotate":
                continue
            arguments = parsed(name, service["command"])
            beside_its_supernode = name.startswith("superexec-clientapp")
            assert arguments.insecure == beside_its_supernode, name
            if name == "superlink":
                assert arguments.enable_supernode_auth
                assert arguments.superexec_auth_secret_file
            if name.startswith("supernode"):
                assert arguments.auth_supernode_private_key


def test_a_supernode_works_for_its_sites_superexec_alone():
    """Else whoever reaches its port takes its messages, and answers them."""
    for services in (services_of(*TLS), services_of(*EVERYTHING), services_of(CLIENT)):
        sources = {"supernode": [], "superexec-clientapp": []}
        for name, service in services.items():
            kind = re.sub(r"-\d$", "", name)
            if kind not in sources:
                continue
            file = parsed(name, service["command"]).superexec_auth_secret_file
            source, writable = compose.mounts(service)[f"/app/{file}"]
            assert not writable
            sources[kind].append(source)
        assert sources["supernode"] == sources["superexec-clientapp"]
        assert len(set(sources["supernode"])) == len(sources["supernode"]) > 0


def test_the_trial_is_reachable_from_its_host_alone():
    assert services_of(*TLS)["superlink"]["ports"] == ["127.0.0.1:8000:8000"]


def test_processes_that_see_images_are_on_their_sites_network_alone():
    for services in (services_of(*TLS), services_of(CLIENT)):
        for name, service in services.items():
            if name.startswith("superexec-clientapp"):
                (network,) = service["networks"]
                assert network.startswith("site")


def test_the_servers_host_runs_the_same_commands():
    here, there = services_of(*TLS), services_of(SERVER)
    for name in ("superlink", "superexec-serverapp"):
        assert here[name]["command"] == there[name]["command"]
        assert here[name]["healthcheck"] == there[name]["healthcheck"]
        assert here[name]["environment"] == there[name]["environment"]


def test_a_sites_host_runs_the_same_commands():
    own_images = {"NODE_CONFIG": 'data-path="/app/data"'}
    here = compose.load(*TLS, variables=own_images)
    values = variables(CLIENT) | {"SUPERLINK": "superlink:8000"}
    there = compose.load(CLIENT, variables=values)
    for name in ("supernode", "superexec-clientapp"):
        command = [
            word.replace("supernode-1", "supernode")
            for word in here[f"{name}-1"]["command"]
        ]
        assert command == there[name]["command"]
        assert here[f"{name}-1"]["healthcheck"] == there[name]["healthcheck"]


def test_the_sites_differ_in_their_number_alone():
    services = services_of(*EVERYTHING)
    for kind in ("supernode", "superexec-clientapp"):
        first = str(services[f"{kind}-1"])
        for site in (2, 3):
            text = str(services[f"{kind}-{site}"])
            text = text.replace(f"partition-id={site - 1}", "partition-id=0")
            assert re.sub(rf"(?<=[a-z]-){site}\b", "1", text) == first


def test_a_forgotten_variable_is_named():
    with pytest.raises(KeyError, match="SUPERLINK"):
        compose.load(CLIENT, variables=variables(CLIENT) | {"SUPERLINK": ""})
