"""Clients whose questions go out as files, and files of answers to them."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np

from fairfal_flwr.annotate.askers import Asker
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.sheet import Sheet, sheet_file, write_sheet
from fairfal_flwr.files import identity_of

CAMPAIGN = "trial"
NAMES = ("cat", "dog", "bird")
HEADER = "campaign,client,sample,answer,annotator"


class Client:
    """A client that asks for images; the same ones for the same arguments."""

    def __init__(
        self,
        root: Path,
        number: int = 6,
        *,
        index: int = 0,
        campaign: str = CAMPAIGN,
        class_names: tuple[str, ...] = NAMES,
        votes: int = 1,
        by_content: bool = True,
        has_reasons: bool = True,
    ) -> None:
        self.path = root / campaign / f"client-{index:04d}.sqlite"
        self.ledger = Ledger(self.path, "abc")
        folder = root.parent / "images"
        folder.mkdir(exist_ok=True, parents=True)
        files = {}
        for name in (f"{index}-{place}.png" for place in range(number)):
            (folder / name).write_bytes(name.encode())
            files[identity_of(name, name.encode())] = name
        self.sheet = Sheet(
            campaign, index, class_names, votes, str(folder), by_content, files
        )
        write_sheet(sheet_file(self.path), self.sheet)
        self.ids = list(files)
        place = np.arange(number)
        self.ledger.record_selection(
            1,
            "fairfal",
            np.array(self.ids, dtype=np.int64),
            suggestions=place % len(class_names) if has_reasons else None,
            scores=np.append(place[:-1] / 4, np.inf) if has_reasons else None,
        )

    @property
    def asker(self) -> Asker:
        return Asker(self.ledger, self.sheet)

    def standing(self) -> dict[int, list[tuple[str | None, str]]]:
        """Return what stands, in names: the answer that counts, then all votes."""
        names = {None: None, **dict(enumerate(self.sheet.class_names))}
        standing = {}
        for question in self.ledger.questions():
            rows = [question.decision] if question.decision else []
            said = [(row.label, row.annotator) for row in rows]
            said += [(label, who) for who, label in question.votes.items()]
            standing[question.sample_id] = [(names[label], who) for label, who in said]
        return standing

    def row(self, place: int, answer: str, annotator: str = "Ann") -> str:
        """Return a line of a table that answers a question."""
        cells = CAMPAIGN, self.sheet.client, f"s{self.ids[place]}", answer, annotator
        line = StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        return line.getvalue()

    def task(self, place: int, *annotations: dict) -> dict:
        """Return a task as Label Studio exports it."""
        data = {
            "image": "/data/local-files/?d=x.png",
            "campaign": CAMPAIGN,
            "client": self.sheet.client,
            "sample": f"s{self.ids[place]}",
        }
        return {"id": place, "data": data, "annotations": annotations, "meta": {}}


def annotation(*choices: str, by: object = 1, at: str = "", **also: object) -> dict:
    """Return an annotation as Label Studio exports it."""
    chosen = {
        "value": {"choices": list(choices)},
        "id": "x",
        "from_name": "class",
        "to_name": "image",
        "type": "choices",
        "origin": "manual",
    }
    return {
        "id": 1,
        "completed_by": by,
        "result": [chosen] if choices else [],
        "was_cancelled": False,
        "created_at": at,
        "updated_at": at,
        **also,
    }


def write_lines(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    return list(csv.DictReader(StringIO(text, newline="")))
