"""Federations of real SuperNodes, run by the commands of `docker/compose.yml`."""

import csv
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import compose
import pytest
from federation import SECONDS, Federation, Run, copy_docker, federation
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from superlink import COMPLETED
from wire import entropy, found, plain_requests

from fairfal_flwr.runs.reader import read_run

pytestmark = pytest.mark.slow

SITES = (1, 2, 3)
CLASSES = 3
SHORT = {
    "num-clients": 3,
    "data.name": "folder",
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 1,
    "campaign.budget": 0.2,
    "train.epochs": 1,
    "local.max-epochs": 2,
    "federation.connect-timeout": 150.0,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write a folder of images per site, and one for the server's test."""
    folder = tmp_path_factory.mktemp("images")
    places = [folder / f"site-{n}" / "train" for n in SITES] + [
        folder / "test" / "test"
    ]
    digits = load_digits()
    rows = [row for row in range(360) if digits.target[row] < CLASSES]
    for number, row in enumerate(rows):
        place = places[number % len(places)] / f"digit-{digits.target[row]}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[row] * 15).astype("uint8")
        Image.fromarray(pixels).resize((16, 16)).save(place / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def variables(images):
    """Fill in what a user would write into `.env`."""
    own = {f"DATA_{number}": str(images / f"site-{number}") for number in SITES}
    test = {"TEST_DATA": str(images / "test")}
    return own | test | {"NODE_CONFIG": 'data-path="/app/data"'}


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    """Copy `docker/` and make credentials in it, one pair for nobody."""
    place = copy_docker(tmp_path_factory.mktemp("deployment") / "docker")
    names = [f"site-{number}" for number in SITES]
    for arguments in (["server"], ["site", *names, "stranger"]):
        command = [sys.executable, place / "credentials.py", *arguments]
        subprocess.run(command, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def secure(docker, variables, tmp_path_factory):
    """Start the whole federation with TLS and keys; site 1 goes through the proxy."""
    services = compose.load("compose.yml", "with-tls.yml", variables=variables)
    folder = tmp_path_factory.mktemp("secure")
    aliases = {"supernode-1": {"superlink": "proxy"}}
    with federation(folder, services, docker, aliases) as made:
        made.start("superlink")
        made.connect_user(docker / "credentials" / "certificates" / "ca.crt")
        for number in SITES:
            key = docker / "credentials" / "keys" / f"site-{number}" / "supernode.pub"
            output = made.flwr("supernode", "register", str(key), "federation")
            assert "registered successfully" in output
        made.start_proxy("superlink")
        made.start("superexec-serverapp")
        made.start(*(service for number in SITES for service in site(number)))
        made.wait_online(*(site(number)[0] for number in SITES))
        yield made


def site(number: int) -> tuple[str, str]:
    return f"supernode-{number}", f"superexec-clientapp-{number}"


def start_run(deployed: Federation, **changes) -> Run:
    place = deployed.place("superexec-serverapp") / "data"
    return deployed.start_run(SHORT | {"data-dir": str(place)} | changes)


def results(deployed: Federation, run: Run) -> Path:
    """Return a run's folder of results on the server's volume."""
    (line,) = {x for x in run.output.splitlines() if x.startswith("results: ")}
    return deployed.volume("results") / "runs" / Path(line).name


def labels_by_cycle(deployed: Federation, number: int, campaign: str) -> dict[int, int]:
    """Read a site's ledger, which must be whole; count its labels."""
    folder = deployed.volume(f"labels-{number}") / "state" / campaign
    (file,) = folder.glob("*.sqlite")
    assert file.name == f"client-{number - 1:04d}.sqlite"
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        query = (
            "SELECT cycle, count(label), count(*) FROM request "
            "LEFT JOIN answer USING (sample_id) GROUP BY cycle"
        )
        counts = db.execute(query).fetchall()
    assert all(labeled == asked for _, labeled, asked in counts)
    return {cycle: labeled for cycle, labeled, _ in counts}


def assert_nothing_is_lost(deployed: Federation, folder: Path, cycles: int) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert len(summary["cycles"]) == cycles
    assert all(0 <= cycle["accuracy"] <= 1 for cycle in summary["cycles"])
    assert load_file(folder / "model.safetensors")
    counts = [labels_by_cycle(deployed, n, folder.name) for n in SITES]
    assert all(set(count) == set(range(1, cycles + 1)) for count in counts)
    labels = sum(sum(count.values()) for count in counts)
    assert labels == summary["cycles"][-1]["labels"]


def clients_by_round(folder: Path) -> list[str]:
    with (folder / "rounds.csv").open(newline="") as stream:
        return [row["clients"] for row in csv.DictReader(stream)]


def clients_of_a_run_with_a_kill(
    deployed: Federation, number: int, message: str, **changes
) -> list[str]:
    """Run a cycle, kill a site while it works on a message and start it again.

    Nothing may be lost. Returns how many clients took part in each round.
    """
    supernode, superexec = site(number)
    before = deployed.log(supernode).count(f"Receiving: {message}")
    run = start_run(deployed, **{"campaign.num-cycles": 1}, **changes)
    deployed.wait_for_log(supernode, f"Receiving: {message}", before + 1)
    deployed.kill(supernode, superexec)
    deployed.start(superexec)
    deployed.start_again(supernode)
    record = run.wait()
    assert record["status"] == COMPLETED, run.output
    folder = results(deployed, run)
    assert_nothing_is_lost(deployed, folder, cycles=1)
    return clients_by_round(folder)


def without(words: list[str], option: str) -> list[str]:
    """Return a SuperNode's command without one option and its value."""
    place = words.index(option)
    return words[:place] + words[place + 2 :]


def intruder(deployed: Federation, words: list[str]) -> tuple[int, str]:
    """Run a SuperNode beside site 3's own; it does not try twice."""
    return deployed.run_service(
        "supernode-3",
        [*without(words, "--port"), "--port", "9095", "--max-retries", "0"],
    )


def secrets(image: Path) -> dict[str, bytes]:
    with Image.open(image) as picture:
        pixels = picture.tobytes()
    return {
        "a key of the run config": b"federation.connect-timeout",
        "the app's code": b"Flower ClientApp: each message goes to",
        "an image file": image.read_bytes(),
        "an image's pixels": pixels,
    }


def test_a_campaign_with_tls_and_registered_keys(secure):
    run = start_run(secure)
    record = run.wait()
    assert record["status"] == COMPLETED, run.output
    folder = results(secure, run)
    assert_nothing_is_lost(secure, folder, cycles=2)
    assert clients_by_round(folder) == ["3", "3"]


def test_nothing_of_it_can_be_read_on_the_wire(secure, images):
    data = (secure.folder / "proxy.bytes").read_bytes()
    assert len(data) > 500_000  # weights, there and back
    image = next((images / "site-1").rglob("*.png"))
    assert found(data, secrets(image)) == set()
    assert plain_requests(data) == 0
    assert entropy(data) > 7.9


def test_a_node_is_refused_whose_key_is_not_registered(secure, docker):
    words = list(secure.services["supernode-3"]["command"])
    stranger = docker / "credentials" / "keys" / "stranger" / "supernode.key"
    words[words.index("--auth-supernode-private-key") + 1] = str(stranger)
    status, output = intruder(secure, words)
    assert status != 0
    assert "Failed to activate SuperNode" in output


def test_a_node_is_refused_that_has_no_key(secure):
    words = secure.services["supernode-3"]["command"]
    status, output = intruder(secure, without(words, "--auth-supernode-private-key"))
    assert status != 0
    assert "Failed to initialize the connection to the SuperLink" in output


def test_a_node_without_the_ca_does_not_connect(secure):
    words = secure.services["supernode-3"]["command"]
    status, output = intruder(secure, without(words, "--root-certificates"))
    assert status != 0
    assert "CERTIFICATE_VERIFY_FAILED" in output


def test_a_restarted_superlink_knows_its_nodes_and_runs(secure):
    secure.cut_and_start_again("superlink", *(site(n)[0] for n in SITES))
    assert list(secure.statuses().values()) == ["online"] * len(SITES)
    (run,) = secure.flwr_json("list", "federation")["runs"]
    assert run["status"] == COMPLETED


def test_a_node_killed_in_a_round_comes_back_and_goes_on(secure):
    short = {"campaign.num-rounds": 5, "federation.round-timeout": 180.0}
    clients = clients_of_a_run_with_a_kill(secure, 2, "train", **short)
    assert (clients[0], clients[-1]) == ("2", "3")


def test_a_node_killed_in_a_query_is_waited_for(secure):
    assert clients_of_a_run_with_a_kill(secure, 3, "query.select") == ["3"]


def test_a_campaign_goes_on_after_its_server_and_the_superlink_were_killed(secure):
    """In the second cycle: what was labeled is neither lost nor asked for again."""
    keys = {"campaign.num-rounds": 2, "campaign.checkpoint-seconds": 0}
    run = start_run(secure, **keys)
    begun = "cycle 2/2  round 1/2"
    secure._wait(lambda: begun in run.output, "the second cycle", 4 * SECONDS)
    folder = results(secure, run)
    secure.kill("superexec-serverapp")
    secure.cut_and_start_again("superlink", *(site(n)[0] for n in SITES))
    secure.start("superexec-serverapp")
    run.process.kill()
    run.process.wait()
    labels = [labels_by_cycle(secure, n, folder.name) for n in SITES]
    assert not (folder / "summary.json").read_text().count('"finished": true')
    again = start_run(secure, **keys, **{"campaign.resume": folder.name})
    assert again.wait()["status"] == COMPLETED, again.output
    assert results(secure, again) == folder
    assert_nothing_is_lost(secure, folder, cycles=2)
    assert [labels_by_cycle(secure, n, folder.name) for n in SITES] == labels
    run_of = read_run(folder)
    assert [(row.cycle, row.round) for row in run_of.rounds] == [
        *((1, 1), (1, 2), (2, 1), (2, 2))
    ]
    assert [event.kind for event in run_of.events].count("resumed") == 1


def test_without_tls_the_same_look_finds_what_it_looks_for(
    docker, variables, images, tmp_path
):
    services = compose.load("compose.yml", variables=variables)
    aliases = {"supernode-1": {"superlink": "proxy"}}
    with federation(tmp_path, services, docker, aliases) as plain:
        plain.start("superlink")
        plain.connect_user(None)
        log = plain.start_proxy("superlink")
        plain.start("superexec-serverapp", *site(1))
        plain.wait_online("supernode-1")
        run = start_run(plain, **{"num-clients": 1})
        assert run.wait()["status"] == "finished:failed"  # the node is one of three
        data = log.read_bytes()
    image = next((images / "site-1").rglob("*.png"))
    assert found(data, secrets(image)) == {"a key of the run config", "the app's code"}
    assert plain_requests(data) > 0


def test_the_look_finds_images_too(images):
    image = next((images / "site-1").rglob("*.png"))
    for name, secret in secrets(image).items():
        assert found(b"noise" + secret + b"noise", secrets(image)) == {name}
