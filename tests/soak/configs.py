"""Thousands of random run configs: valid, or refused in one line.

    python tests/soak/configs.py --count 1000

Each has a few keys of the run config, or some that there are not, with values of any
type and size. `RunConfig.from_flat` must return a config or raise a `UserError` of one
printable line; never anything else.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from fairfal_flwr.config import RunConfig  # noqa: E402
from fairfal_flwr.errors import UserError  # noqa: E402

DEFAULTS = RunConfig().to_flat()
STRANGE: tuple[Any, ...] = (
    *(0, 1, -1, 2**63, 10**400, -(10**30), True, False, None),
    *(0.0, -0.0, 0.5, 1.0, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "random", "true", "a:b", ":", "::", "os:system", "x" * 10**5),
    *(
        "\x00",
        "\x1b[31mred",
        "two\nlines",
        "\u202eright",
        "\ud800",
        "../../x",
        "{0} %s",
    ),
    *([], [1, "a"], {}, {"a": {"b": 1}}, (1,), b"bytes", object()),
)
STRANGE_KEYS = (
    *("", ".", "..", "a", "a.b", "train", "train.", ".train", "train.lr.x", "query"),
    *("train.LR", "train.lr ", "federation.qourum", "__class__", "data.__init__"),
    *("x" * 10**4, "\x1b[31mred.key", "two\nlines", "\ud800.a", "seed.seed", "%s.{0}"),
)


def value(key: str, rng: random.Random) -> Any:
    """Return something for a key: its default, near it, or anything."""
    default = DEFAULTS.get(key)
    near: list[Any] = [default]
    if isinstance(default, int | float):
        near += [default + 1, default * 2, -default, default / 2, str(default)]
        near += [int(default), float(default)]
    elif isinstance(default, str):
        near += [default.upper(), f"{default} ", f"{default}:f"]
    return rng.choice(near) if rng.random() < 0.5 else rng.choice(STRANGE)


def config(rng: random.Random) -> dict[str, Any]:
    """Return a flat run config of a few random keys."""
    keys = rng.choices(list(DEFAULTS), k=rng.randrange(6))
    if rng.random() < 0.3:
        keys += rng.choices(STRANGE_KEYS, k=rng.randrange(1, 3))
    rng.shuffle(keys)
    return {key: value(key, rng) for key in keys}


def run(count: int, seed: int) -> Counter[str]:
    """Parse that many configs; return how many were valid and refused.

    Raises
    ------
    AssertionError
        If a refusal is not one printable line.
    """
    ends: Counter[str] = Counter()
    for number in range(count):
        values = config(random.Random(f"{seed}/{number}"))
        try:
            RunConfig.from_flat(values)
        except UserError as error:
            line = str(error)
            assert line.isprintable(), f"{line!r}"
            ends["refused in one line"] += 1
        else:
            ends["valid"] += 1
    return ends


def main() -> None:
    """Parse the command line, run, and print how the configs ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ends = run(arguments.count, arguments.seed)
    lines = (f"{number:6d}  {end}" for end, number in sorted(ends.items()))
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
