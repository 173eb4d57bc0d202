"""The files that say what gets installed agree with each other."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_flower_run_gets_the_pytorch_of_the_environment():
    with (ROOT / "pyproject.toml").open("rb") as file:
        pinned = set(tomllib.load(file)["tool"]["uv"]["constraint-dependencies"])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {pin.partition("==")[0] for pin in pinned} == {"torch", "torchvision"}
    assert pinned <= set(constraints)
