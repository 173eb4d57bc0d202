"""Kill a campaign at random moments and go on each time: the run must be the same.

A forked process runs the campaign through real messages; SIGKILL ends it after a random
time, and another goes on from the checkpoint, until one finishes. Weights, selections
and every row but for its times must equal those of the run that nobody disturbed::

    python tests/soak/resume.py --count 20
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from grid import InProcessGrid, small  # noqa: E402

from fairfal_flwr.client.ledger import Ledger  # noqa: E402
from fairfal_flwr.client.participant import find_participant  # noqa: E402
from fairfal_flwr.config import RunConfig  # noqa: E402
from fairfal_flwr.errors import UserError  # noqa: E402
from fairfal_flwr.runs.reader import read_run  # noqa: E402
from fairfal_flwr.runs.writer import CHECKPOINT  # noqa: E402
from fairfal_flwr.server.campaign import Campaign  # noqa: E402

LENGTH = {
    "campaign.num-cycles": 3,
    "campaign.num-rounds": 3,
    "campaign.checkpoint-seconds": 0.2,
    "query.strategy": "fairfal",
}
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "scaffold": {"federation.strategy": "scaffold", "federation.fraction-train": 0.7},
    "fedadam": {"federation.strategy": "fedadam", "campaign.reset": "continue"},
    "ifal": {"query.strategy": "ifal", "distill.max-epochs": 5},
    "chase": {"query.strategy": "chase", "train.objective": "alignment"},
}
TIMES = ("local_training_seconds", "outputs_seconds", "selection_seconds")


def run(values: Mapping[str, Any]) -> None:
    """Run a campaign in this process, unless it was killed with nothing left to do."""
    config = RunConfig.from_flat(values)
    try:
        campaign = Campaign(config, InProcessGrid(dict(values), config.num_clients))
    except UserError as error:
        assert "it has finished cycle 3" in str(error)  # noqa: PT017
        return
    campaign.run()


def forked(work: Callable[[], None]) -> int:
    """Start work in a process of its own; return the process."""
    if process := os.fork():
        return process
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def killed_within(process: int, seconds: float) -> bool:
    """Wait for a process; kill it once the time is up, and tell whether that was so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert status == 0, "a process failed by itself"
            return False
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def record(folder: Path, state: Path) -> dict[str, Any]:
    """Return all that a run left, but for times and its name."""
    left = read_run(folder)
    assert left.summary is not None
    nothing = {"query_seconds": 0.0, "train_seconds": 0.0}
    cycles = tuple(replace(row, **nothing) for row in left.summary.cycles)
    ledgers = sorted((state / folder.name).glob("client-*.sqlite"))
    return {
        "summary": replace(left.summary, run="", seconds=0.0, cycles=cycles),
        "rounds": [replace(row, seconds=0.0) for row in left.rounds],
        "queries": [replace(q, **dict.fromkeys(TIMES, 0.0)) for q in left.queries],
        "weights": load_file(folder / "model.safetensors"),
        "labels": [labels_in(path) for path in ledgers],
    }


def labels_in(path: Path) -> list[Any]:
    """Return what a ledger was asked, cycle by cycle, and what it was answered."""
    ledger = Ledger(path, fingerprint_of(path))
    cycles = range(1, LENGTH["campaign.num-cycles"] + 1)
    ids, labels = ledger.labeled(cycles[-1])
    return [
        [ledger.selection(cycle).tolist() for cycle in cycles],
        ids.tolist(),
        labels.tolist(),
    ]


def fingerprint_of(path: Path) -> str:
    """Return which images a ledger belongs to."""
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("SELECT fingerprint FROM shard").fetchone()[0])


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return in what two runs differ."""
    a, b = ours["weights"], theirs["weights"]
    same = a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    parts = [name for name in ours if name != "weights" and ours[name] != theirs[name]]
    return parts + ["weights"] * (not same)


def survive(folder: Path, case: str, kills: int, seed: int) -> tuple[int, list[str]]:
    """Kill a campaign again and again; return how often, and what differs at the end.

    A campaign that finishes before enough kills is started anew, and killed sooner
    if it met none: how fast this machine is may have changed meanwhile.
    """
    draw = random.Random(f"{case} {seed}")
    values = small(folder, "whole", **(LENGTH | CASES[case]))
    find_participant.cache_clear()
    started = time.monotonic()
    assert not killed_within(forked(lambda: run(values)), 3600)
    whole_time = time.monotonic() - started
    (whole,) = (folder / "whole").glob("*/summary.json")
    expected = record(whole.parent, folder / "whole")
    done, found, attempt = 0, [], 0
    while done < kills:
        number, wrong = _one(folder, f"run-{attempt}", case, whole_time, draw, expected)
        done, found, attempt = done + number, found + wrong, attempt + 1
        whole_time /= 1 if number else 2
    return done, found


def _one(
    folder: Path,
    name: str,
    case: str,
    seconds: float,
    draw: random.Random,
    expected: Mapping[str, Any],
) -> tuple[int, list[str]]:
    """Bring one campaign to its end through kills; at most eight of them."""
    values = small(folder, name, **(LENGTH | CASES[case]))
    killed, resume = 0, ""
    while True:
        values["campaign.resume"] = resume
        limit = draw.uniform(0.05, 0.7) * seconds if killed < 8 else 3600
        if not killed_within(forked(lambda: run(values)), limit):
            break
        killed += 1
        runs = [path.parent for path in (folder / name).glob(f"*/{CHECKPOINT}")]
        resume = str(runs[0]) if runs else ""
        if not resume:  # it had not even met its clients
            shutil.rmtree(folder / name, ignore_errors=True)
    (left,) = (path.parent for path in (folder / name).glob(f"*/{CHECKPOINT}"))
    return killed, differences(record(left, folder / name), expected)


def main() -> None:
    """Print a line for each case; exit 1 if any run differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES)
    arguments = parser.parse_args()
    logging.getLogger("fairfal").addHandler(logging.NullHandler())
    torch.set_num_threads(1)
    wrong = 0
    for case in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            found = survive(Path(folder), case, arguments.count, arguments.seed)
        wrong += len(found[1])
        print(f"{case}: {found[0]} kills, {found[1] or 'no difference'}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
