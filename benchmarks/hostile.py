"""One hostile client of ten against every aggregation strategy, and a table.

    python benchmarks/hostile.py                        # digits, every strategy
    python benchmarks/hostile.py --names fedavg,krum --output table.md
    python benchmarks/hostile.py --margins              # how far honest updates differ

Real messages, clients and ledgers through the in-process grid of `tests/grid.py`. Each
cell is the accuracy after the last round, with `federation.max-update-norm` at 10 and,
after the slash, at 0. `--margins` runs honest campaigns in place of that and prints the
largest norm of an update as a multiple of its round's median: what the default has to
leave room for.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import Array, Context, Message

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from grid import InProcessGrid  # noqa: E402

from client_app import app  # noqa: E402
from fairfal_flwr.client.annotators import Oracle  # noqa: E402
from fairfal_flwr.client.participant import find_participant  # noqa: E402
from fairfal_flwr.config import RunConfig  # noqa: E402
from fairfal_flwr.config.federation import AGGREGATIONS  # noqa: E402
from fairfal_flwr.errors import UserError  # noqa: E402
from fairfal_flwr.server import federation, recorder  # noqa: E402
from fairfal_flwr.server.campaign import Campaign  # noqa: E402
from fairfal_flwr.server.norms import excess  # noqa: E402

HOSTILE = 9
DROPPED: dict[int, float] = {}  # of the last run, by norm
COMMON: dict[str, Any] = {
    "num-clients": 10,
    "query.strategy": "random",
    "campaign.num-cycles": 1,
    "campaign.num-rounds": 5,
    "campaign.budget": 0.2,
    "campaign.evaluate-every": 5,
    "data.alpha": 1.0,
    "train.epochs": 3,
    "train.batch-size": 8,
    "federation.max-update-norm": 10.0,
}
CHOSEN: dict[str, dict[str, Any]] = {
    "fedadam": {"federation.eta": 0.01},
    "fedadagrad": {"federation.eta": 0.01},
    "fedyogi": {"federation.eta": 0.01},
    "qfedavg": {"federation.client-learning-rate": 0.1},  # of train.lr it hardly moves
    "krum": {"federation.num-malicious-nodes": 1},
    "multikrum": {
        "federation.num-malicious-nodes": 1,
        "federation.num-nodes-to-select": 5,
    },
    "bulyan": {"federation.num-malicious-nodes": 1},
}
MARGINS: dict[str, dict[str, Any]] = {
    "digits, 2 labels each": {"campaign.budget": 0.015, "campaign.num-rounds": 30},
    "digits, 14 labels each": {"campaign.budget": 0.1, "campaign.num-rounds": 30},
    "digits, unequal clients": {
        "campaign.budget": 0.1,
        "campaign.num-rounds": 30,
        "data.partitioner": "dirichlet",
    },
    "Fashion-MNIST": {
        "data.name": "fashion-mnist",
        "campaign.budget": 0.02,
        "campaign.num-rounds": 4,
        "campaign.evaluate-every": 4,
    },
}

Change = Callable[[Message, Message], None]


class Flipped(Oracle):
    """Answers class c with the class that is as far from the other end."""

    def __init__(self, honest: Oracle, num_classes: int) -> None:
        self.honest, self.num_classes = honest, num_classes

    def answer(self, sample_ids: Any) -> Any:
        """Return the wrong classes."""
        return self.num_classes - 1 - self.honest.answer(sample_ids)


def scaled(factor: float) -> Change:
    """Return what multiplies the weights themselves."""
    return lambda _request, reply: _replace(reply, {}, factor)


def turned(factor: float) -> Change:
    """Return what multiplies the update and leaves the weights sent as they are."""

    def change(request: Message, reply: Message) -> None:
        _replace(reply, request.content.array_records.get("arrays", {}), factor)

    return change


def counting(number: int) -> Change:
    """Return what claims a number of training images."""

    def change(_request: Message, reply: Message) -> None:
        if reply.metadata.message_type == "train":
            reply.content.metric_records["metrics"]["num-examples"] = number

    return change


def pretending(_request: Message, reply: Message) -> None:
    """Claim a billion images from the first message on, and stay consistent."""
    images, budget = 10**9, int(10**9 * COMMON["campaign.budget"])
    said = {
        "query.status": {"num-samples": images},
        "query.select": {
            "budget": budget,
            "num-selected": budget,
            "num-labeled": budget,
            "num-unlabeled": images - budget,
        },
        "train": {"num-examples": budget},
    }
    metrics = reply.content.metric_records["metrics"]
    for name, value in said.get(reply.metadata.message_type, {}).items():
        metrics[name] = value


def _replace(reply: Message, base: Mapping[str, Array], factor: float) -> None:
    if reply.metadata.message_type != "train":
        return
    for key, record in reply.content.array_records.items():
        for name, array in record.items():
            own = array.numpy()
            start = base[name].numpy() if key == "arrays" and base else 0
            record[name] = Array(np.asarray(start + factor * (own - start), own.dtype))


def absent(_request: Message, reply: Message) -> None:
    """Fail to train, which is what dropping every reply of the client comes to."""
    if reply.metadata.message_type == "train":
        raise RuntimeError("no power")


def nothing(_request: Message, _reply: Message) -> None:
    """Leave an honest reply alone."""


HUGE = "weights x 10^6"
MISCOUNTED = "10^15 images"
DROPPED_ALWAYS = (HUGE, MISCOUNTED)
ATTACKS: dict[str, Change] = {
    "honest": nothing,
    "absent": absent,
    HUGE: scaled(1e6),
    "update x -10": turned(-10),
    "update x -1": turned(-1),
    "labels flipped": nothing,
    MISCOUNTED: counting(10**15),
    "10^9 from the start": pretending,
}


def client(attack: str, config: RunConfig) -> Callable[[Message, Context], Message]:
    """Return a ClientApp of which one client is hostile."""

    def answer(message: Message, context: Context) -> Message:
        is_hostile = context.node_config["partition-id"] == HOSTILE
        if is_hostile and attack == "labels flipped":
            name = str(message.content.config_records["config"]["campaign"])
            participant = find_participant(config, HOSTILE, name, "")
            if not isinstance(participant.annotator, Flipped):
                classes = participant.shard.num_classes
                participant.annotator = Flipped(participant.annotator, classes)
        reply = app(message, context)
        if is_hostile and not reply.has_error():
            ATTACKS[attack](message, reply)
        return reply

    return answer


def run(attack: str, changes: Mapping[str, Any]) -> Campaign:
    """Run one campaign to its end or to the line with which it stops."""
    find_participant.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        values = {**COMMON, **changes, "output-dir": folder, "state-dir": folder}
        config = RunConfig.from_flat(values)
        grid = InProcessGrid(values, config.num_clients, client(attack, config))
        with mock.patch.object(recorder, "draw_learning_curve", _touch):
            campaign = Campaign(config, grid)
            campaign.run()
    return campaign


def accuracy(attack: str, changes: Mapping[str, Any]) -> str:
    """Return the last accuracy in percent, or that the run stopped with its line."""
    DROPPED.clear()

    def note(norms: Mapping[int, float], most: float) -> dict[int, float]:
        odd = excess(norms, most)
        DROPPED.update(odd)
        return odd

    try:
        with mock.patch.object(federation, "excess", note):
            campaign = run(attack, changes)
    except UserError as error:
        print(f"    {error}"[:300], file=sys.stderr, flush=True)
        return "stops"
    return f"{100 * campaign.recorder.cycles[-1].accuracy:.1f}"


def row(name: str) -> str:
    """Return a strategy's row of the table."""
    changes = {"federation.strategy": name, **CHOSEN.get(name, {})}
    cells: list[str] = []
    for attack in ATTACKS:
        # What is dropped in every round is absent, bit by bit.
        known = attack in DROPPED_ALWAYS
        cell = cells[1] if known else accuracy(attack, changes)
        if attack == HUGE or (DROPPED and not known):  # else the key changes nothing
            free = accuracy(attack, {**changes, "federation.max-update-norm": 0.0})
            cell = f"{cell} / {free}"
        cells.append(cell)
        print(f"{name}, {attack}: {cells[-1]}", file=sys.stderr, flush=True)
    return f"| `{name}` | {' | '.join(cells)} |"


def table(names: list[str]) -> str:
    """Return the comparison in Markdown."""
    head = f"| strategy | {' | '.join(ATTACKS)} |"
    return "\n".join([head, "|---" * (len(ATTACKS) + 1) + "|", *map(row, names)])


def margins(names: list[str]) -> str:
    """Return the largest honest ratio of each campaign, in Markdown."""
    lines = ["| campaign, alpha 0.1 | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for title, changes in MARGINS.items():
        cells = []
        for name in names:
            largest = max(
                honest_ratio({**changes, "federation.strategy": name, "seed": seed})
                for seed in (0, 1)
            )
            cells.append(f"{largest:.2f}")
            print(f"{title}, {name}: {cells[-1]}", file=sys.stderr, flush=True)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def honest_ratio(changes: Mapping[str, Any]) -> float:
    """Return the largest norm over the median of its round in an honest campaign."""
    ratios = [0.0]

    def note(norms: Mapping[int, float], most: float) -> dict[int, float]:
        middle = median(norms.values())
        if middle:
            ratios.append(max(norms.values()) / middle)
        return excess(norms, most)

    with mock.patch.object(federation, "excess", note):
        drop_nobody = {"federation.max-update-norm": 1e300}
        run("honest", {"data.alpha": 0.1, **drop_nobody, **changes})
    return max(ratios)


def _touch(_folders: object, path: Path) -> None:
    path.touch()


def main() -> None:
    """Parse the command line, run the campaigns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", help="with commas; all by default")
    parser.add_argument("--margins", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the table to a file")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    default = "fedavg,fedprox,scaffold" if arguments.margins else ",".join(AGGREGATIONS)
    names = (arguments.names or default).split(",")
    text = (margins if arguments.margins else table)(names)
    print(text)
    if arguments.output:
        arguments.output.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
