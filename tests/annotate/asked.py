"""Clients that have asked people something: real ledgers, sheets and files."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from fairfal_flwr.annotate.app import make_app
from fairfal_flwr.annotate.doors import Doors
from fairfal_flwr.annotate.site import Site
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.sheet import Sheet, sheet_file, write_sheet
from fairfal_flwr.files import identity_of

DIGITS = tuple(f"digit {number}" for number in range(10))
LINK = re.compile(r"https?://\S+/\?token=\S+")


def write_picture(path: Path, number: int, size: int = 32) -> None:
    """Write a picture that no other number has."""
    y, x = np.mgrid[:size, :size]
    disk = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (
        size * (3 + number % 5) / 20
    ) ** 2
    grey = (disk * 160 + (x * (1 + number % 7)) % 60).astype(np.uint8)
    grey[0, 0], grey[0, 1] = number % 256, number // 256
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)


class Asked:
    """A client with questions.

    Parameters
    ----------
    root : Path
        The state folder.
    """

    def __init__(
        self,
        root: Path,
        *,
        client: int = 0,
        campaign: str = "trial",
        class_names: tuple[str, ...] = DIGITS,
        votes: int = 1,
    ) -> None:
        self.path = root / campaign / f"client-{client:04d}.sqlite"
        self.folder = root.parent / f"images-{campaign}-{client}"
        self.ledger = Ledger(self.path, "abc")
        self.campaign, self.client = campaign, client
        self.class_names, self.votes = class_names, votes
        self.files: dict[int, str] = {}
        self.cycle = 0

    def ask(self, number: int, **also: bytes) -> list[int]:
        """Ask a cycle's questions: of some pictures, then of other files' content."""
        self.cycle += 1
        names = [f"c{self.cycle}/{place}.png" for place in range(number)]
        for place, name in enumerate(names):
            write_picture(self.folder / name, 100 * self.cycle + place)
        for name, content in also.items():
            names.append(f"c{self.cycle}/{name.replace('_', '.')}")
            (self.folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / names[-1]).write_bytes(content)
        ids = [identity_of(name, (self.folder / name).read_bytes()) for name in names]
        self.files.update(zip(ids, names, strict=True))
        self.write_sheet()
        place = np.arange(len(ids))
        self.ledger.record_selection(
            self.cycle,
            "fairfal",
            np.array(ids, dtype=np.int64),
            suggestions=place % min(3, len(self.class_names)),
            scores=(1 - place / (2 * len(ids))).astype(np.float32),
        )
        return ids

    def write_sheet(
        self, folder: Path | None = None, *, by_content: bool = True
    ) -> None:
        sheet = Sheet(
            campaign=self.campaign,
            client=self.client,
            class_names=self.class_names,
            votes=self.votes,
            folder=str(folder or self.folder),
            by_content=by_content,
            files=self.files,
        )
        write_sheet(sheet_file(self.path), sheet)

    def decisions(self) -> dict[int, int | None]:
        """Return what stands, by sample."""
        return {
            question.sample_id: question.decision.label
            for question in self.ledger.questions()
            if question.decision
        }


HERE = "http://127.0.0.1:8000"
CSRF = re.compile('name="csrf" content="([^"]+)"')


class Page:
    """An application, and the people who come to it; no socket is opened."""

    def __init__(self, root: Path, *, votes: int | None = None, key: str = "secret"):
        self.tokens: list[str] = []
        self.doors = Doors({"127.0.0.1"}, key, self.tokens.append)
        self.site = Site(root, votes=votes)
        self.app = make_app(self.site, self.doors)

    def stranger(self) -> TestClient:
        return TestClient(self.app, base_url=HERE)

    def person(self, name: str = "Ann") -> "Person":
        person = Person(self.stranger())
        person.enter(self.tokens[-1])
        person.post("name", name=name).raise_for_status()
        return person


class Person:
    """Somebody with a browser that came in."""

    def __init__(self, http: TestClient) -> None:
        self.http = http
        self.desk: str | None = None

    def enter(self, token: str) -> None:
        page = self.http.get(f"/?token={token}").raise_for_status()
        self.http.headers["x-csrf-token"] = CSRF.search(page.text)[1]

    def post(self, call: str, **sent):
        return self.http.post(f"/api/{call}", json={"desk": self.desk, **sent})

    def say(self, call: str, **sent):
        return self.post(call, **sent).raise_for_status().json()

    def state(self, **sent):
        state = self.say("state", **sent)
        self.desk = state["desk"]
        return state

    def queue(self):
        return self.state()["queue"]

    def answer(self, questions, label: int | None):
        items = [{"id": q["id"], "seen": q["seen"]} for q in questions]
        return self.say("answer", label=label, items=items)

    def image(self, sample_id: int, query: str = ""):
        if self.desk is None:
            self.state()
        return self.http.get(f"/image/{self.desk}/{sample_id}{query}")


class Annotating:
    """A `fairfal annotate` that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: Queue[str] = Queue()
        self.reader = Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def line(self) -> str:
        """Return what it prints next; nothing at its end."""
        return self.lines.get(timeout=60)

    def link(self) -> str:
        """Return the next address that it prints."""
        while line := self.line():
            if found := LINK.search(line):
                return found[0]
        raise AssertionError("it ended")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def annotating(root: Path, *options: str) -> Iterator[Annotating]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from fairfal_flwr.command.cli import app; app()",
            "annotate",
            "--state-dir",
            str(root),
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield Annotating(process)
    finally:
        process.kill()
        process.wait()
