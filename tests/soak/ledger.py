"""The ledger under faults: killed writers, flipped bits, cut files, crowded openings.

``python tests/soak/ledger.py`` runs the counts of docs/reliability.md, which takes
minutes; ``--count`` makes it shorter. The fast tests call the same functions with small
counts. Each returns what it did and what went wrong, by name; nothing may.
"""

import argparse
import json
import logging
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from fairfal_flwr.client.ledger import Head, Ledger
from fairfal_flwr.client.ledger_file import connection
from fairfal_flwr.errors import UserError

NUM_REQUESTS = 400
KILLS_OF_ONE_LEDGER = 20
LONGEST_LIFE = 0.4  # seconds of a writer, from its first line
BAD = (
    *("lost or wrong", "asked again", "not opened", "leftovers"),
    *("silent", "touched", "crashed"),
)


def ids(values: Any) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


# A writer that says what it is about to do and, once the ledger has it, that it did.


def write(path: Path, seed: int) -> None:
    """Answer, take back and close until somebody ends this process."""
    rng = random.Random(seed)
    say("here")
    ledger = Ledger(path, "abc")
    if not ledger.knows_cycle(1):
        ledger.record_selection(1, "random", ids(range(NUM_REQUESTS)))
    for step in range(1, 10**9):
        waiting = ledger.unanswered().tolist()
        rng.shuffle(waiting)
        done = ledger.answered().tolist()
        if not waiting or (done and rng.random() < 0.1):
            act("withdraw", rng.choice(done), lambda s: ledger.withdraw(s, "ann"))
        elif rng.random() < 0.1:
            cycle = 1000 * (seed + 1) + step
            act("close", cycle, ledger.close)
        elif rng.random() < 0.2:
            some = [(sample, rng.randrange(10)) for sample in waiting[:5]]
            act("answer", some, lambda s: ledger.record_answers(*np.array(s).T, "o"))
        else:
            label = None if rng.random() < 0.1 else rng.randrange(10)
            one = [(waiting[0], label)]
            act("answer", one, lambda s: ledger.answer(*s[0], "ann"))


def act(name: str, what: Any, action: Callable[[Any], None]) -> None:
    say(json.dumps([name, what]))
    action(what)
    say("done")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


class Truth:
    """What a ledger must hold, from what its writers said."""

    def __init__(self) -> None:
        self.answers: dict[int, int | None] = {}
        self.closed: dict[int, dict[int, int | None]] = {}

    def after(self, lines: list[str]) -> "list[Truth]":
        """Return what may be: all that was done, and then what was under way or not."""
        under_way = None
        for line in lines:
            if line == "done":
                self.apply(*under_way)
                under_way = None
            elif line.startswith("["):
                under_way = json.loads(line)
        if under_way is None:
            return [self]
        other = deepcopy(self)
        other.apply(*under_way)
        return [self, other]

    def apply(self, name: str, what: Any) -> None:
        if name == "answer":
            self.answers.update(dict(what))
        elif name == "withdraw":
            del self.answers[what]
        else:
            self.closed[what] = dict(self.answers)

    def agrees(self, ledger: Ledger) -> bool:
        views = [(10**9, self.answers), *self.closed.items()]
        return all(answers_of(ledger, cycle) == known for cycle, known in views)


def answers_of(ledger: Ledger, cycle: int) -> dict[int, int | None]:
    samples, labels = ledger.labeled(cycle)
    found: dict[int, int | None] = dict.fromkeys(ledger.set_aside(cycle).tolist())
    return found | dict(zip(samples.tolist(), labels.tolist(), strict=True))


def kills(folder: Path, count: int, seed: int) -> Counter[str]:
    """Kill a writer at random moments and read what it leaves."""
    rng = random.Random(f"kills {seed}")
    found: Counter[str] = Counter()
    for number in range(count):
        if number % KILLS_OF_ONE_LEDGER == 0:
            path, truth = folder / f"{number}" / "client.sqlite", Truth()
        lines = killed_writer(path, seed + number, rng.random() * LONGEST_LIFE)
        found["kills"] += 1
        found["acknowledged"] += lines.count("done")
        possible = truth.after(lines)
        if not path.exists() and not truth.answers:
            found["before there was a ledger"] += 1
            continue
        try:
            ledger = Ledger(path, "abc")
        except UserError as error:
            found["not opened"] += 1
            print(error)
            continue
        real = [one for one in possible if one.agrees(ledger)]
        waiting = set(ledger.unanswered().tolist())
        found["lost or wrong"] += not real
        found["asked again"] += any(waiting & one.answers.keys() for one in real)
        truth = real[0] if real else truth
    return found


def killed_writer(path: Path, seed: int, life: float) -> list[str]:
    """Let a writer live for some seconds from its first line; return what it said."""
    with child("--write", str(path), "--seed", str(seed)) as writer:
        said = writer.stdout.readline()
        end = perf_counter() + life
        pipe = writer.stdout.fileno()
        while (left := end - perf_counter()) > 0:
            if select.select([pipe], [], [], left)[0]:
                said += os.read(pipe, 65536)
        writer.kill()
        said += writer.stdout.read()
    return said.decode().splitlines()


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# Damage: one bit, or the end of a file.


def damages(folder: Path, flips: int, cuts: int, seed: int) -> Counter[str]:
    """Damage a ledger, at rest or with a log beside it, and open it."""
    rng = random.Random(f"damages {seed}")
    samples = [whole_ledger(folder / "rest", False), whole_ledger(folder / "log", True)]
    found: Counter[str] = Counter()
    for number in range(flips + cuts):
        files, head, truth = samples[number % 2]
        kind = "flips" if number < flips else "cuts"
        found[kind] += 1
        content = dict(files)
        name, position = somewhere(content, rng)
        change = flip if kind == "flips" else cut
        content[name] = change(content[name], position, rng)
        # One of the two that can know is enough: the file beside it, or the server.
        if rng.random() < 0.5:
            del content["client.head"]
            verdict = opened(folder / "damaged", content, truth, head)
        else:
            verdict = opened(folder / "damaged", content, truth, Head())
        found[verdict] += 1
        if verdict in BAD:
            print(f"{verdict}: {kind} {number} of seed {seed}: {name} at {position}")
    return found


def somewhere(content: dict[str, bytes], rng: random.Random) -> tuple[str, int]:
    names = [name for name in content if not name.endswith(".head")]
    (name,) = rng.choices(names, [len(content[name]) for name in names])
    return name, rng.randrange(len(content[name]))


def flip(data: bytes, position: int, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, position: int, _rng: random.Random) -> bytes:
    return data[:position]


def whole_ledger(folder: Path, log: bool) -> tuple[dict[str, bytes], Head, Any]:
    """Return the files of a ledger with all that one can hold, its head and content.

    With a log, half of the answers are in the write-ahead log alone.
    """
    path = folder / "client.sqlite"
    ledger = Ledger(path, "abc")
    rng = np.random.default_rng(0)
    for cycle in (1, 2):
        samples = ids(range(cycle * 1000, cycle * 1000 + NUM_REQUESTS))
        memory = {"dormant": (samples + 5, samples % 7)}
        ledger.record_selection(
            cycle,
            "chase",
            rng.permutation(samples),
            suggestions=samples % 10,
            scores=rng.random(NUM_REQUESTS).astype(np.float32),
            notes={"score": 1 / 3},
            memory=memory,
        )
        ledger.record_answers(samples[:300], samples[:300] % 10, "oracle")
        ledger.close(cycle)
    with connection(path) as reader:
        if log:  # nobody moves the log into the file while somebody reads
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM shard").fetchall()
        for sample in range(2300, 2330):
            ledger.answer(sample, sample % 10 or None, "ann")
        ledger.withdraw(2301, "ann")
        names = ["client.sqlite", "client.head"] + ["client.sqlite-wal"] * log
        files = {name: (folder / name).read_bytes() for name in names}
    return files, ledger.head, content_of(ledger)


def content_of(ledger: Ledger) -> Any:
    """Return all that a ledger can be asked."""
    cycles = range(4)
    known = [cycle for cycle in cycles if ledger.knows_cycle(cycle)]
    return (
        [answers_of(ledger, cycle) for cycle in cycles],
        [ledger.requested(cycle).tolist() for cycle in cycles],
        [ledger.selection(cycle).tolist() for cycle in known],
        [ledger.notes(cycle) for cycle in known],
        [[v.tolist() for v in ledger.memory("dormant", cycle)] for cycle in cycles],
        ledger.unanswered().tolist(),
        ledger.answered().tolist(),
    )


def opened(folder: Path, content: dict[str, bytes], truth: Any, head: Head) -> str:
    """Open a damaged ledger and say what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    try:
        same = content_of(Ledger(folder / "client.sqlite", "abc", head)) == truth
    except UserError as error:
        whole = all((folder / n).read_bytes() == data for n, data in content.items())
        return "named" if whole and "\n" not in str(error) else "touched"
    except Exception as error:
        print(repr(error))
        return "crashed"
    return "without effect" if same else "silent"


# Several processes that open a ledger, which is not there yet, at the same moment.


def openings(folder: Path, rounds: int, processes: int) -> Counter[str]:
    """Let processes open a new ledger together, again and again."""
    found: Counter[str] = Counter()
    with ExitStack() as stack:
        crowd = [stack.enter_context(child("--open")) for _ in range(processes)]
        for number in range(rounds):
            path = folder / f"{number}" / "client.sqlite"
            for one in crowd:
                one.stdin.write(f"{path}\n".encode())
            answers = [one.stdout.readline() for one in crowd]
            found["openings"] += len(answers)
            found["not opened"] += sum(answer != b"ok\n" for answer in answers)
            left = [file.name for file in path.parent.iterdir()]
            found["leftovers"] += left != [path.name]
    return found


def open_what_is_named() -> None:
    """Open each ledger that is named by a line of the standard input."""
    for line in sys.stdin:
        try:
            Ledger(Path(line.strip()), "abc")
            say("ok")
        except Exception as error:
            say(repr(error))


def main() -> None:
    """Do all of it, print what came of it, and exit 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="kills; the rest in it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    count, seed = options.count, options.seed
    if options.write:
        return write(options.write, seed)
    if options.open:
        return open_what_is_named()
    logging.disable()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "openings": openings(folder / "openings", count * 6 // 5, 3),
            "damage": damages(folder / "damages", 2 * count, count * 2 // 5, seed),
            "kills": kills(folder / "kills", count, seed),
        }
    for title, found in results.items():
        print(title, ", ".join(f"{what}: {n}" for what, n in sorted(found.items())))
    sys.exit(any(found[what] for found in results.values() for what in BAD))


if __name__ == "__main__":
    main()
