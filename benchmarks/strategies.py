"""One small campaign for each query strategy, in this process, and a table.

    python benchmarks/strategies.py                          # digits, minutes
    python benchmarks/strategies.py --data fashion-mnist --seeds 0,1,2
    python benchmarks/strategies.py --names random,fairfal --output table.md

Real messages, clients and ledgers through the in-process grid of `tests/grid.py`; no
server, no Ray. Every strategy gets the same clients, the same first labels and the same
budget for the same seed. The digits take minutes and tell little: they are easy, and a
few seeds differ by more than the strategies do. `bald` is left out unless named: the
default network has no dropout.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import tomllib
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from grid import run_campaign  # noqa: E402

from fairfal_flwr.config import RunConfig  # noqa: E402
from fairfal_flwr.query.registry import STRATEGIES  # noqa: E402

SCALES: dict[str, dict[str, Any]] = {
    "digits": {
        "num-clients": 4,
        "campaign.num-cycles": 4,
        "campaign.num-rounds": 8,
        "train.epochs": 2,
        "train.batch-size": 16,
    },
    "fashion-mnist": {
        "num-clients": 5,
        "data.imbalance-ratio": 20.0,
        "campaign.num-cycles": 4,
        "campaign.num-rounds": 8,
        "train.epochs": 2,
        "local.max-epochs": 20,
        "distill.max-epochs": 20,
    },
}


class Result(NamedTuple):
    """What one campaign came to."""

    accuracies: list[float]
    seconds: float

    @property
    def area(self) -> float:
        """Mean accuracy over the cycles, the area under the learning curve."""
        return statistics.mean(self.accuracies)


def campaign(name: str, seed: int, overrides: dict[str, Any]) -> Result:
    """Run one campaign and return the accuracy at the end of each cycle."""
    with tempfile.TemporaryDirectory() as folder:
        started = process_time()
        values = {
            **overrides,
            "seed": seed,
            "query.strategy": name,
            "output-dir": f"{folder}/runs",
            "state-dir": f"{folder}/state",
        }
        finished, _ = run_campaign(RunConfig.keep_taken(values))
        seconds = process_time() - started
        accuracies = [100 * row.accuracy for row in finished.recorder.cycles]
    return Result(accuracies, seconds)


def table(results: dict[str, list[Result]]) -> str:
    """Return the comparison in Markdown, the largest mean area first."""
    lines = [
        "| strategy | final accuracy % | mean over cycles % | against random | CPU s |",
        "|---|---|---|---|---|",
    ]
    control = results.get("random")
    for name, runs in sorted(
        results.items(), key=lambda item: -statistics.mean(r.area for r in item[1])
    ):
        gain = "" if control is None else _gain(runs, control)
        final = _spread([run.accuracies[-1] for run in runs])
        area = _spread([run.area for run in runs])
        seconds = statistics.mean(run.seconds for run in runs)
        lines.append(f"| `{name}` | {final} | {area} | {gain} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean:.1f}{spread}"


def _gain(runs: list[Result], control: list[Result]) -> str:
    """Return the mean gain in area over the control on the same seeds."""
    pairs = zip(runs, control, strict=True)
    return f"{statistics.mean(run.area - other.area for run, other in pairs):+.1f}"


def main() -> None:
    """Parse the command line, run the campaigns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SCALES, default="digits")
    parser.add_argument("--seeds", default="0", help="with commas")
    parser.add_argument(
        "--names",
        default=",".join(sorted(set(STRATEGIES) - {"bald"})),
        help="with commas",
    )
    parser.add_argument("--output", type=Path, help="also write the table to a file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=TOML",
        help="a run-config key",
    )
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    overrides = {"data.name": arguments.data, **SCALES[arguments.data]}
    overrides |= tomllib.loads("\n".join(map(_quoted, arguments.set)))
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    results: dict[str, list[Result]] = {}
    for name in arguments.names.split(","):
        results[name] = [campaign(name, seed, overrides) for seed in seeds]
        for run in results[name]:
            curve = " ".join(f"{accuracy:.1f}" for accuracy in run.accuracies)
            print(f"{name}: {curve}  {run.seconds:.0f} s", file=sys.stderr, flush=True)
    head = f"{arguments.data}, seeds {arguments.seeds}, {overrides}\n\n"
    text = head + table(results)
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


def _quoted(assignment: str) -> str:
    """Turn ``train.lr=0.1`` into TOML with one dotted key as a flat one."""
    key, _, value = assignment.partition("=")
    return f'"{key}" = {value}'


if __name__ == "__main__":
    main()
