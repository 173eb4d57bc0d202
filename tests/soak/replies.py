"""Thousands of malformed replies of every type, against a recorded campaign.

    python tests/soak/replies.py --count 2000

One small campaign is recorded. Then each of its steps is taken again many times, with
the recorded replies, of which one client's is changed at random. Whatever it is: no
exception but the one line of a `UserError`, no wait, nothing on the log that is not a
printable line, and the outcome of the step is, bit by bit, the one in which that client
did not answer, unless the reply passes the gate, whose bounds it then keeps.
"""

import argparse
import io
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from grid import FIRST_NODE_ID, InProcessGrid  # noqa: E402

from client_app import app  # noqa: E402
from fairfal_flwr.client.participant import find_participant  # noqa: E402
from fairfal_flwr.config import RunConfig  # noqa: E402
from fairfal_flwr.errors import UserError  # noqa: E402
from fairfal_flwr.server.campaign import Campaign  # noqa: E402
from fairfal_flwr.server.state import CampaignState  # noqa: E402

KINDS = ("query.status", "query.imbalance", "query.select", "train", "evaluate")
HOSTILE = 1
LONGEST_STEP = 5.0  # seconds; a wait would take `federation.round-timeout`
CAMPAIGN = {
    "num-clients": 4,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 1,
    "campaign.evaluate-every": 1,
    "train.epochs": 1,
    "local.max-epochs": 1,
    "federation.fraction-evaluate": 1.0,
    "federation.round-retries": 0,
    "federation.round-timeout": 20.0,
}
NUMBERS = (
    *(float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 1e9, 1e-320, 0.5),
    *(0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63), 10**15, True, False),
    *([], [1], [0.5] * 9, [float("nan")] * 10, [-1] * 10, [2**62] * 10, [1] * 10**5),
)
TEXTS = (
    "\x1b[2J\x1b[31mERROR: disk full\x1b[0m",
    "one\ntwo\r\nTraceback (most recent call last):",
    "\u202egnp.exe\u202c\u2066\u200b\ufeff",
    "[bold red]rich[/bold red] %s %d {0}",
    "\x00\x07\x08\x9b31m",
    "x" * 100_000,
    "",
    "\ud800",
)


class FailedError(Exception):
    """Carries the error that is answered in place of the reply."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error


def bombs() -> dict[str, bytes]:
    """Return bytes that must not be decoded: other formats, and what expands."""
    zeros, archive, objects = np.zeros(10**7), io.BytesIO(), io.BytesIO()
    np.savez_compressed(archive, zeros)
    np.save(objects, np.array([{}], object), allow_pickle=True)
    head = io.BytesIO()
    large = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(head, large)
    return {
        "npz": archive.getvalue(),
        "objects": objects.getvalue(),
        "claims a terabyte": head.getvalue(),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "torch": b"PK\x03\x04" + b"\0" * 100,
        "nothing": b"",
        "half a header": b"\x93NUMPY\x01\x00\xff\xff{'descr': ",
        "nested": b"\x93NUMPY\x01\x00\x10\x03" + b"(" * 780 + b"\n" * 4,
    }


BOMBS = bombs()


def change_metric(content: RecordDict, rng: random.Random) -> None:
    """Give a metric another value."""
    metrics = content["metrics"]
    metrics[rng.choice(list(metrics))] = deepcopy(rng.choice(NUMBERS))


def huge_metric(content: RecordDict, rng: random.Random) -> None:
    """Give a metric a number that no machine has."""
    metrics = content["metrics"]
    metrics[rng.choice(list(metrics))] = rng.choice([10**400, -(10**5000)])


def lose_metric(content: RecordDict, rng: random.Random) -> None:
    """Leave a metric out."""
    del content["metrics"][rng.choice(list(content["metrics"]))]


def add_metric(content: RecordDict, rng: random.Random) -> None:
    """Add a metric with a name of any kind."""
    content["metrics"][rng.choice(TEXTS)] = 1


def add_many_metrics(content: RecordDict, _rng: random.Random) -> None:
    """Add thousands of metrics."""
    for number in range(5000):
        content["metrics"][f"m{number}"] = number


def lose_record(content: RecordDict, rng: random.Random) -> None:
    """Leave a record out."""
    del content[rng.choice(list(content))]


def add_record(content: RecordDict, rng: random.Random) -> None:
    """Add a record with a name of any kind."""
    extra = rng.choice(
        [ConfigRecord({"text": TEXTS[0]}), ArrayRecord(), MetricRecord()]
    )
    content[rng.choice(("images", "variate", *TEXTS))] = extra


def change_record(content: RecordDict, rng: random.Random) -> None:
    """Put a record of another kind, also with text in place of numbers."""
    name = rng.choice(list(content))
    text = {key: rng.choice(TEXTS) for key in content[name]}
    content[name] = rng.choice(
        [ConfigRecord(text), ConfigRecord(), ArrayRecord(), MetricRecord()]
    )


def nest(content: RecordDict, rng: random.Random) -> None:
    """Put garbage where a record is: in a deployment no bytes say so, here one can."""
    name = rng.choice(list(content))
    content.__dict__["_data"][name] = rng.choice(
        [None, {"metrics": {"loss": 1}}, [[]], content, object(), "metrics"]
    )


def _some_array(content: RecordDict, rng: random.Random) -> tuple[Any, str]:
    record = content["arrays"] if "arrays" in content else ArrayRecord()
    if not len(record):
        record = content["arrays"] = ArrayRecord([np.ones(3, np.float32)])
    return record, rng.choice(list(record))


def other_bytes(content: RecordDict, rng: random.Random) -> None:
    """Give an array bytes that are no array of its kind."""
    record, name = _some_array(content, rng)
    old = record[name]
    data = rng.choice([*BOMBS.values(), old.data[:-3], old.data + b"\0", b"\x93NUMPY"])
    record[name] = Array(old.dtype, old.shape, old.stype, data)


def other_array(content: RecordDict, rng: random.Random) -> None:
    """Give an array another shape, type, order of its bytes, or bad values."""
    record, name = _some_array(content, rng)
    own = record[name].numpy()
    other: Callable[[], Any] = rng.choice(
        [
            lambda: own.astype(np.float64),
            lambda: own.astype(np.int32),
            lambda: own.astype(">f4"),
            lambda: own.ravel()[:1].sum(),
            lambda: own[None],
            lambda: np.full_like(own, np.nan),
            lambda: np.full_like(own, np.inf),
            lambda: np.full_like(own, 3e38),
            lambda: np.where(np.arange(own.size).reshape(own.shape) == 0, np.nan, own),
            lambda: np.asarray(own * 1e6, own.dtype),
            lambda: np.array(["text"] * 3),
        ]
    )
    record[name] = Array(np.asarray(other()))


def lie_about_array(content: RecordDict, rng: random.Random) -> None:
    """Say something about an array that its bytes do not."""
    record, name = _some_array(content, rng)
    old = record[name]
    dtype = rng.choice(["float64", "object", TEXTS[0], "x" * 10**5])
    shape = rng.choice([(-1,), (2**62,), (1,) * 10**5, ()])
    stype = rng.choice(["pickle", "torch", TEXTS[1], ""])
    record[name] = rng.choice(
        [
            Array(dtype, old.shape, old.stype, old.data),
            Array(old.dtype, shape, old.stype, old.data),
            Array(old.dtype, old.shape, stype, old.data),
        ]
    )


def rename_arrays(content: RecordDict, rng: random.Random) -> None:
    """Leave an array out, add one, or turn their order round."""
    record, name = _some_array(content, rng)
    array = record[name]
    match rng.randrange(4):
        case 0:
            del record[name]
        case 1:
            record[rng.choice(TEXTS)] = array
        case 2:
            del record[name]
            record[f"{name} "] = array
        case 3:
            record[name.upper()] = array
            content["arrays"] = ArrayRecord(dict(reversed(list(record.items()))))


def another_index(content: RecordDict, rng: random.Random) -> None:
    """Be another client, or none."""
    if "client" in content["metrics"]:
        content["metrics"]["client"] = rng.choice([0, 2, 3, 4, -1, 2**62])
    else:
        content["metrics"]["client"] = 0


def fail(_content: RecordDict, rng: random.Random) -> None:
    """Answer with an error, and any text for it."""
    code = rng.choice([0, 1, 2, 5, 10**9])
    raise FailedError(Error(code, rng.choice([*TEXTS, None])))


CHANGES = (
    *(change_metric, change_metric, huge_metric, lose_metric, add_metric),
    *(add_many_metrics, lose_record, add_record, change_record, nest),
    *(other_bytes, other_array, other_array, lie_about_array, rename_arrays),
    *(another_index, fail),
)


class Recorded(InProcessGrid):
    """Answers with recorded replies, and with what `hostile` makes of one client's."""

    def __init__(self, values: dict[str, Any], num_nodes: int) -> None:
        super().__init__(values, num_nodes, self.answer)
        self.known: dict[tuple[str, int], RecordDict] = {}
        self.hostile: Callable[[Message, RecordDict], Message] | None = None

    def answer(self, message: Message, context: Context) -> Message:
        """Be the ClientApp while there is no record, and the record from then on."""
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if self.hostile is None:
            reply = app(message, context)
            self.known[kind, node] = deepcopy(reply.content)
            return reply
        content = deepcopy(self.known[kind, node])
        if node == FIRST_NODE_ID + HOSTILE:
            return self.hostile(message, content)
        return Message(content, reply_to=message)


class Stage:
    """A recorded campaign, and each of its steps to be taken again."""

    def __init__(self, folder: Path) -> None:
        values = {**CAMPAIGN, "output-dir": str(folder), "state-dir": str(folder)}
        find_participant.cache_clear()
        config = RunConfig.from_flat(values)
        self.grid = Recorded(values, config.num_clients)
        self.campaign = Campaign(config, self.grid)
        states = [self.campaign.meet_clients(CampaignState())]
        for _ in range(4):
            states.append(self.campaign.step(states[-1]))
        self.nodes = self.campaign.clients.nodes
        _, _, self.trained, self.chosen, self.end = states

    def take(self, kind: str) -> Any:
        """Take the step that a type of message belongs to; return what it came to."""
        campaign = self.campaign
        campaign.clients.nodes = {} if kind == "query.status" else self.nodes
        match kind:
            case "query.status":
                return campaign.meet_clients(CampaignState()).samples
            case "query.imbalance":
                return campaign.measure_imbalance(2, self.trained)
            case "query.select":
                state = campaign.annotate(self.trained)
                return state.labels, state.most_labels, state.global_queries
            case "train":
                trained = campaign.federation.train("soak", self.chosen)
                return trained.clients, trained.loss, trained.weights
        replies = campaign.federation.evaluate("soak", self.end)
        return [(r.class_counts, r.class_hits) for r in replies]

    def outcome(self, kind: str) -> Any:
        """Return what a step came to, or the line with which it stopped."""
        try:
            return self.take(kind)
        except UserError as error:
            return str(error)


def same(first: Any, second: Any) -> bool:
    """Tell whether two outcomes are equal, bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            same(value, second[key]) for key, value in first.items()
        )
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


class Lines(logging.Handler):
    """Keeps the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())
        if record.exc_info:
            self.lines.append("Traceback\n")


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """Send that many malformed replies; return how many ended in which way.

    Raises
    ------
    AssertionError
        If one does more than to be dropped; it names the seed and the changes.
    """
    stage, lines = Stage(folder), Lines()
    logger = logging.getLogger("fairfal")
    logger.addHandler(lines)
    absent = {}
    for kind in KINDS:
        stage.grid.hostile = _silent
        absent[kind] = stage.outcome(kind)
    ends: Counter[str] = Counter()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        ends[f"{kind} {one(stage, lines, kind, absent[kind], (seed, number))}"] += 1
    logger.removeHandler(lines)
    return ends


def one(
    stage: Stage, lines: Lines, kind: str, absent: Any, seed: tuple[int, int]
) -> str:
    """Send one malformed reply and hold its promise; return how it ended."""
    rng = random.Random(str(seed))
    changes = rng.sample(CHANGES, rng.choice([1, 1, 1, 2, 3]))
    names = f"{kind} {seed} {[change.__name__ for change in changes]}"
    lines.lines.clear()

    def hostile(message: Message, content: RecordDict) -> Message:
        own = random.Random(str(seed))
        try:
            for change in changes:
                _try(change, content, own)
        except FailedError as failed:
            return Message(failed.error, reply_to=message)
        made = Message(content, reply_to=message)
        if own.random() < 0.05:
            made.metadata.__dict__["_src_node_id"] = FIRST_NODE_ID
        return made

    stage.grid.hostile = hostile
    started = monotonic()
    outcome = stage.outcome(kind)
    assert monotonic() - started < LONGEST_STEP, f"a wait: {names}"
    for line in [*lines.lines, outcome if isinstance(outcome, str) else ""]:
        assert line.isprintable(), f"{line!r}: {names}"
    if any(f"client {HOSTILE}:" in line for line in lines.lines):
        assert same(outcome, absent), f"another outcome: {names}"
        return "dropped"
    if isinstance(outcome, str):
        assert kind == "query.status", f"stopped: {names}: {outcome}"
        return "stopped with a line"
    check_accepted(kind, outcome, names)
    return "within bounds"


def check_accepted(kind: str, outcome: Any, names: str) -> None:
    """Hold what passed the gate against what the clients can have."""
    match kind:
        case "query.status":
            assert all(0 < n <= 10**9 for n in outcome.values()), names
        case "query.imbalance":
            assert all(0 < gamma <= 1 for gamma in outcome.values()), names
        case "query.select":
            assert all(
                n <= most
                for n, most in zip(*map(dict.values, outcome[:2]), strict=True)
            ), names
        case "train":
            assert all(w.isfinite().all() for w in outcome[2].values()), names
            assert np.isfinite(outcome[1]), names
        case "evaluate":
            for counts, hits in outcome:
                assert all(
                    h <= n <= 10**9 for n, h in zip(counts, hits, strict=True)
                ), names


def _try(change: Any, content: RecordDict, rng: random.Random) -> None:
    """Change a reply; what an earlier change has left nothing for is left out."""
    try:
        change(content, rng)
    except (LookupError, TypeError, AttributeError, ValueError, EOFError):
        return


def _silent(message: Message, _content: RecordDict) -> Message:
    raise RuntimeError("no power")


def main() -> None:
    """Parse the command line, run, and print how the replies ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ends = run(arguments.count, arguments.seed, Path(folder))
    lines = (f"{number:6d}  {end}" for end, number in sorted(ends.items()))
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
