"""A whole run on digits whose labels come through the page, by mouse and keyboard."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from answering import SECONDS, Annotator, answer_until, by_keyboard, by_mouse, labels_of
from asked import Annotating, annotating
from grid import run_campaign
from people import known_pixels
from safetensors.torch import load_file
from superlink import COMPLETED, local_superlink, run_app
from torch import equal

from fairfal_flwr.runs.reader import read_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FAIRFAL = str(Path(sys.executable).parent / "fairfal")
Keys = dict[str, Any]
KEYS: Keys = {
    "num-clients": 2,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 2,
    "campaign.budget": 0.03,
    "train.epochs": 1,
    "local.max-epochs": 2,
}


@contextmanager
def by_fairfal_run(keys: dict[str, object]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Give the address that `fairfal run` prints, and whether it is over."""
    pairs = [
        f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in keys.items()
    ]
    command = [FAIRFAL, "run", str(ROOT), "-c", " ".join(pairs)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    run = Annotating(process)
    try:
        yield run.link(), lambda: process.poll() is not None
        assert process.wait() == 0, list(run.lines.queue)
    finally:
        process.kill()
        process.wait()


@contextmanager
def by_flwr_run(keys: Keys) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Give the address of `fairfal annotate` beside `flwr run`."""
    with local_superlink() as link, annotating(Path(str(keys["state-dir"]))) as page:
        lines: list[str] = []
        records: list[Keys] = []

        def run() -> None:
            records.append(
                run_app(link, ROOT, keys, num_supernodes=2, echo=lines.append)
            )

        thread = Thread(target=run, daemon=True)
        thread.start()
        yield page.link(), lambda: bool(records)
        thread.join()
    assert records[0]["status"] == COMPLETED, lines


@pytest.mark.parametrize("program", [by_fairfal_run, by_flwr_run])
def test_a_run_labeled_through_the_page_is_the_oracles_bit_by_bit(
    tmp_path, screens, program
):
    oracle, _ = run_campaign(
        KEYS
        | {
            "output-dir": str(tmp_path / "oracle"),
            "state-dir": str(tmp_path / "oracle"),
        }
    )
    keys = KEYS | {
        "annotation.by": "person",
        "annotation.poll-seconds": 1.0,
        "output-dir": str(tmp_path / "runs"),
        "state-dir": str(tmp_path / "state"),
    }
    with program(keys) as (link, is_over):
        first = screens.open(link)
        first.locator("#desk option").nth(1).wait_for(
            state="attached", timeout=1000 * SECONDS
        )
        second = screens.tab(first.context, first.url)
        second.locator("#desk").select_option(index=1)
        known = known_pixels(keys)
        annotators = [
            Annotator(first, known[0], by_mouse),
            Annotator(second, known[1], by_keyboard),
        ]
        answer_until(annotators, is_over)
    (folder,) = (tmp_path / "runs").iterdir()
    run = read_run(folder)
    assert run.summary is not None
    assert run.summary.finished
    ours, theirs = load_file(folder / "model.safetensors"), oracle.state.weights
    assert all(equal(ours[name], theirs[name]) for name in theirs)
    accuracies = [cycle.accuracy for cycle in run.summary.cycles]
    assert accuracies == [cycle.accuracy for cycle in oracle.recorder.cycles]
    for client, annotator in enumerate(annotators):
        name = f"client-{client:04d}.sqlite"
        mine = tmp_path / "state" / folder.name / name
        other = tmp_path / "oracle" / oracle.recorder.name / name
        for cycle in (1, 2):
            assert labels_of(mine, cycle) == labels_of(other, cycle)
        assert len(annotator.answered) == len(labels_of(mine, 2))
