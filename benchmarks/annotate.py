"""How long the labeling page takes with thousands of open questions.

    python benchmarks/annotate.py                        # 5,000 questions of one cycle
    python benchmarks/annotate.py --questions 50000 --answers 100

A real server on a real port, a real ledger and real PNG files (64 × 64) in a temporary
folder. An answer is what stands between a person and a label that is on the disk; a
page is what a browser needs to show the first question: the state and its image.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import numpy as np
from PIL import Image

from fairfal_flwr.annotate.serve import serving
from fairfal_flwr.annotate.site import Site
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.sheet import Sheet, sheet_file, write_sheet
from fairfal_flwr.files import identity_of

SIDE = 64
ANSWER_LIMIT = 0.1  # seconds
PAGE_LIMIT = 0.3


def main() -> None:
    """Measure, print, and exit 1 if people wait too long."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--answers", type=int, default=200, help="how many are timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "state"
        ask(root, options.questions)
        links: list[str] = []
        with serving(Site(root), "127.0.0.1", 0, links.append):
            fits = measure(Annotator(links[0]), options.answers)
    sys.exit(not fits)


def ask(root: Path, number: int) -> None:
    """Write a client's ledger, sheet and images."""
    images = root.parent / "images"
    images.mkdir()
    noise = np.random.default_rng(0)
    files = {}
    for place in range(number):
        path = images / f"{place:06d}.png"
        pixels = noise.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        files[identity_of(path.name, path.read_bytes())] = path.name
    ledger = Ledger(root / "campaign" / "client-0000.sqlite", "benchmark")
    names = tuple(f"class {label}" for label in range(10))
    sheet = Sheet("campaign", 0, names, 1, str(images), True, files)
    write_sheet(sheet_file(ledger.path), sheet)
    ids = np.array(list(files), dtype=np.int64)
    ledger.record_selection(
        1,
        "fairfal",
        ids,
        suggestions=np.arange(number) % 10,
        scores=np.linspace(1, 0, number, dtype=np.float32),
    )


class Annotator:
    """What a browser sends for a person.

    Parameters
    ----------
    link : str
        With the token.
    """

    def __init__(self, link: str) -> None:
        self.http = httpx.Client(base_url=link.partition("/?")[0])
        page = self.http.get(link).text
        csrf = page.partition('name="csrf" content="')[2].partition('"')[0]
        self.http.headers["x-csrf-token"] = csrf
        self.desk: str | None = None
        self.call("name", {"name": "Ann"})
        self.desk = self.call("state", {})["desk"]

    def call(self, what: str, sent: dict) -> dict:
        """Return the reply to a call of the page."""
        whole = {"desk": self.desk, **sent}
        return self.http.post(f"/api/{what}", json=whole).raise_for_status().json()

    def first_page(self) -> list[dict]:
        """Return what is open, once its first image is there."""
        queue = self.call("state", {})["queue"]
        address = f"/image/{self.desk}/{queue[0]['id']}"
        self.http.get(address).raise_for_status()
        return queue

    def answer(self, questions: list[dict]) -> None:
        """Label questions; returns when that is on the server's disk."""
        items = [{"id": q["id"], "seen": q["seen"]} for q in questions]
        self.call("answer", {"label": 1, "items": items})


def measure(ann: Annotator, number: int) -> bool:
    """Print what things take; tell whether the two that people wait for fit."""
    pages, answers = [], []
    for _ in range(number):
        queue, taken = timed(ann.first_page)
        pages.append(taken)
        answers.append(timed(lambda queue=queue: ann.answer(queue[:1]))[1])
    undone = [timed(lambda: ann.call("undo", {}))[1] for _ in range(min(number, 20))]
    found, taken = timed(lambda: ann.call("grid", {}))
    at_once = timed(lambda: ann.answer(found["items"]))[1]
    report("first page (state and image)", pages)
    report("answer", answers)
    report("undo", undone)
    report("grid", [taken])
    report(f"answer to {len(found['items'])} at once", [at_once])
    return median(pages) < PAGE_LIMIT and median(answers) < ANSWER_LIMIT


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns and the seconds that it took."""
    start = perf_counter()
    result = run()
    return result, perf_counter() - start


def report(what: str, times: list[float]) -> None:
    """Print the median and the worst of some times."""
    middle, worst = 1e3 * median(times), 1e3 * max(times)
    print(f"{what}: median {middle:.0f} ms, worst {worst:.0f} ms of {len(times)}")


if __name__ == "__main__":
    main()
