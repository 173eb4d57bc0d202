"""Three sites with TLS and folders of unlabeled images, labeled through three pages.

On the way a page, a browser, a client and the server are killed; no answer is lost.
"""

import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import compose
import pytest
from answering import SECONDS, Annotator, answer_until, by_keyboard, by_mouse, labels_of
from asked import Annotating, annotating
from federation import Federation, Run, copy_docker, federation
from PIL import Image
from sklearn.datasets import load_digits
from superlink import COMPLETED

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.sheet import read_sheet, sheet_file
from fairfal_flwr.runs.reader import read_run

pytestmark = pytest.mark.slow

SITES = (1, 2, 3)
CLASSES = ("zero", "one", "two")
KEYS = {
    "num-clients": 3,
    "data.name": "folder",
    "data.class-names": ",".join(CLASSES),
    "data.image-size": 16,
    "data.channels": 1,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 1,
    "campaign.budget": 0.2,
    "train.epochs": 1,
    "query.strategy": "random",  # what is asked for is no matter here
    "federation.connect-timeout": 150.0,
    "annotation.by": "person",
    "annotation.poll-seconds": 2.0,
}


class Sites:
    """The folders of the sites, the federation, and what every image shows."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.truth: dict[bytes, int] = {}
        digits = load_digits()
        rows = [row for row in range(400) if digits.target[row] < len(CLASSES)]
        for number, row in enumerate(rows):
            label = int(digits.target[row])
            place = self.images / f"site-{number % 4 + 1}"
            if number % 4 == 3:
                place = self.images / "test" / "test" / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[row] * 15).astype("uint8")
            picture = Image.fromarray(pixels).resize((16, 16))
            picture.save(place / f"scan {row}.png")
            self.truth[picture.tobytes()] = label
        self.variables = {
            f"DATA_{number}": str(self.images / f"site-{number}") for number in SITES
        } | {
            "TEST_DATA": str(self.images / "test"),
            "NODE_CONFIG": 'data-path="/app/data"',
        }

    def state(self, deployed: Federation, number: int) -> Path:
        return deployed.volume(f"labels-{number}") / "state"

    def ledger(self, deployed: Federation, number: int) -> Path:
        (file,) = self.state(deployed, number).glob("*/client-*.sqlite")
        return file

    def labels(self, ledger: Path, samples: Iterable[int]) -> dict[int, int]:
        """Return what the files of some samples show."""
        sheet = read_sheet(sheet_file(ledger))
        shown = {}
        for sample in samples:
            with Image.open(f"{sheet.folder}/{sheet.files[sample]}") as picture:
                shown[sample] = self.truth[picture.tobytes()]
        return shown


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return Sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def deployed(sites, tmp_path_factory):
    docker = copy_docker(tmp_path_factory.mktemp("deployment") / "docker")
    names = [f"site-{number}" for number in SITES]
    for arguments in (["server"], ["site", *names]):
        command = [sys.executable, docker / "credentials.py", *arguments]
        subprocess.run(command, check=True, capture_output=True)
    services = compose.load("compose.yml", "with-tls.yml", variables=sites.variables)
    with federation(tmp_path_factory.mktemp("labeled"), services, docker) as made:
        made.start("superlink")
        made.connect_user(docker / "credentials" / "certificates" / "ca.crt")
        for name in names:
            key = docker / "credentials" / "keys" / name / "supernode.pub"
            made.flwr("supernode", "register", str(key), "federation")
        made.start("superexec-serverapp")
        made.start(*(service for number in SITES for service in services_of(number)))
        made.wait_online(*(services_of(number)[0] for number in SITES))
        yield made


def services_of(number: int) -> tuple[str, str]:
    return f"supernode-{number}", f"superexec-clientapp-{number}"


def start_run(deployed: Federation, **changes) -> Run:
    place = deployed.place("superexec-serverapp") / "data"
    return deployed.start_run(KEYS | {"data-dir": str(place)} | changes)


def results(deployed: Federation, run: Run) -> Path:
    (line,) = {x for x in run.output.splitlines() if x.startswith("results: ")}
    return deployed.volume("results") / "runs" / Path(line).name


def num_answers(ledger: Path) -> int:
    return sum(len(q.rows) for q in Ledger(ledger, None).questions())


def test_three_sites_are_labeled_to_the_end_whatever_is_killed(
    sites, deployed, screens, tmp_path
):
    with ExitStack() as stack:

        def page(number: int) -> Annotating:
            state = sites.state(deployed, number)
            return stack.enter_context(annotating(state, "--port", str(ports[number])))

        def person(number: int, how: Callable = by_mouse) -> Annotator:
            return Annotator(screens.open(pages[number].link()), sites.truth, how)

        def wait(condition: Callable[[], bool]) -> None:
            deployed._wait(condition, "the sites have answered", SECONDS)

        ports = dict.fromkeys(SITES, 0)
        run = start_run(deployed)
        pages = {number: page(number) for number in SITES}
        people = {1: person(1), 2: person(2, by_keyboard), 3: person(3)}

        # A few answers, then site 1's page, site 2's browser and site 3's node go.
        answer_until(
            list(people.values()),
            lambda: all(len(p.answered) >= 2 for p in people.values()),
        )
        ledgers = {number: sites.ledger(deployed, number) for number in SITES}
        wait(
            lambda: all(
                num_answers(ledgers[n]) == len(people[n].answered) for n in SITES
            )
        )
        pages[1].kill()
        people[1].screen.close()
        people[2].screen.context.close()
        screens.contexts.remove(people[2].screen.context)
        deployed.kill(*services_of(3))
        pages[1] = page(1)
        people[1].screen = screens.open(pages[1].link())
        people[2].screen = screens.open(pages[2].link())
        people[3].look()  # people work on while their node is away
        deployed.start(services_of(3)[1])
        deployed.start_again(services_of(3)[0])

        # Then the server, before the first cycle is answered; it goes on.
        folder = results(deployed, run)
        asked = {n: Ledger(ledgers[n], None).selection(1).tolist() for n in SITES}
        deployed.kill("superexec-serverapp")
        answer_until([people[2]], lambda: len(people[2].answered) >= 3)
        deployed.start("superexec-serverapp")
        again = start_run(deployed, **{"campaign.resume": folder.name})
        answer_until(list(people.values()), lambda: again.process.poll() is not None)
        record = again.wait()
        run.process.kill()
        run.process.wait()
    assert record["status"] == COMPLETED, again.output
    assert results(deployed, again) == folder
    summary = read_run(folder).summary
    assert summary is not None
    assert summary.finished
    assert len(summary.cycles) == 2
    for number in SITES:
        ledger = ledgers[number]
        assert Ledger(ledger, None).selection(1).tolist() == asked[number]
        labels = labels_of(ledger, 2)
        assert labels == sites.labels(ledger, labels)
        assert sorted(labels) == Ledger(ledger, None).requested().tolist()
        assert len(people[number].answered) == len(labels) == num_answers(ledger)
    total = sum(len(labels_of(ledgers[number], 2)) for number in SITES)
    assert summary.cycles[-1].labels == total
