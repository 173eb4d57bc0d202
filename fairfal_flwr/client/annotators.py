"""Who answers what a client asks: the oracle, or people at the client's own machine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.ledger_file import now
from fairfal_flwr.client.sheet import Sheet, Word, sheet_file, write_sheet, write_word
from fairfal_flwr.data import Shard
from fairfal_flwr.files import replacing
from fairfal_flwr.messages import StatusRequest

__all__ = ["Annotator", "Oracle", "People", "mistaken"]

SampleIds = NDArray[np.int64]


class Annotator(Protocol):
    """Who answers."""

    def prepare(self, sample_ids: SampleIds) -> None:
        """Get ready for questions about all of these samples, before they are asked."""

    def answer(self, ledger: Ledger) -> None:
        """Write the answers that are there by now."""

    def hear(self, request: StatusRequest) -> None:
        """Take note of what the campaign waits for."""


class Oracle:
    """Answers with the labels that it is given; for simulated annotation.

    The only holder of the labels of the pool: acquisition code sees requests, never
    this object.

    Parameters
    ----------
    sample_ids : ndarray, shape (N,), int64
        Ascending.
    labels : ndarray, shape (N,), int64
        What it takes the class of each for.
    delay : float, default 0
        Seconds for each image of a query, one after the other.
    """

    name = "oracle"

    def __init__(
        self, sample_ids: SampleIds, labels: NDArray[np.int64], delay: float = 0.0
    ) -> None:
        self._sample_ids = sample_ids
        self._labels = labels
        self._delay = delay

    def prepare(self, sample_ids: SampleIds) -> None:
        """Do nothing: it knows all images."""

    def answer(self, ledger: Ledger) -> None:
        """Write the answers to all questions that it had the time for."""
        waiting = self._due(ledger) if self._delay else ledger.unanswered()
        rows = np.searchsorted(self._sample_ids, waiting)
        ledger.record_answers(waiting, self._labels[rows], self.name)

    def hear(self, request: StatusRequest) -> None:
        """Do nothing: it needs no reason to go on."""

    def _due(self, ledger: Ledger) -> SampleIds:
        """Return the samples that wait, in the order asked, and whose time has come."""
        moment = datetime.now(UTC)
        due = [
            q.sample_id
            for q in ledger.questions()
            if q.decision is None
            and (moment - datetime.fromisoformat(q.asked_at)).total_seconds()
            >= self._delay * (q.rank + 1)
        ]
        return np.array(due, dtype=np.int64)


class People:
    """Lays out what people need in order to answer, beside the ledger.

    They answer through the ledger itself (`fairfal annotate`, `fairfal questions`).

    Parameters
    ----------
    ledger : Path
        The client's.
    campaign : str
        Its name.
    client : int
        The client's index.
    shard : Shard
        The images, on the CPU.
    votes : int
        People who must agree.
    """

    def __init__(
        self, ledger: Path, campaign: str, client: int, shard: Shard, votes: int
    ) -> None:
        self._ledger = ledger
        self._campaign = campaign
        self._client = client
        self._shard = shard
        self._votes = votes

    def prepare(self, sample_ids: SampleIds) -> None:
        """Write the sheet, and the images that are no files of the site."""
        rows = np.searchsorted(self._shard.sample_ids, sample_ids).tolist()
        numbers = sample_ids.tolist()
        folder = self._shard.folder
        if folder:
            files = {
                n: self._shard.files[row] for n, row in zip(numbers, rows, strict=True)
            }
        else:
            pictures = self._ledger.with_suffix(".images")
            pictures.mkdir(parents=True, exist_ok=True)
            folder = str(pictures.resolve())
            files = {number: f"{number}.png" for number in numbers}
            for number, row in zip(numbers, rows, strict=True):
                _draw(pictures / files[number], self._shard.images[row])
        sheet = Sheet(
            campaign=self._campaign,
            client=self._client,
            class_names=self._shard.class_names,
            votes=self._votes,
            folder=folder,
            by_content=bool(self._shard.folder),
            files=files,
        )
        write_sheet(sheet_file(self._ledger), sheet)

    def answer(self, ledger: Ledger) -> None:
        """Do nothing: people write into the ledger themselves."""

    def hear(self, request: StatusRequest) -> None:
        """Keep it for people to read."""
        word = Word(
            cycle=request.cycle or 0,
            awaited=request.awaited or 0,
            open=request.open or 0,
            seconds_left=request.seconds_left,
            told_at=now(),
        )
        write_word(self._ledger, word)


def mistaken(
    labels: NDArray[np.int64],
    num_classes: int,
    probability: float,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Return labels as somebody gives them who errs.

    Each label y becomes (y + s) mod C with the given probability, s uniform in
    {1, …, C − 1}: another class, each alike. Otherwise it stays.

    Parameters
    ----------
    labels : ndarray, shape (N,), int64
        In [0, C).
    num_classes : int
        C; with one there is no other class.
    probability : float
        In [0, 1].
    generator : numpy.random.Generator
        Draws 2 N numbers.
    """
    errs = generator.random(len(labels)) < probability
    shifts = generator.integers(1, max(num_classes, 2), len(labels))
    return np.where(errs, (labels + shifts) % num_classes, labels)


def _draw(path: Path, image: Tensor) -> None:
    """Write pixels as a PNG, once."""
    if path.exists():
        return
    with replacing(path) as temporary:
        Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy()).save(temporary, "PNG")
