"""The files that say what gets installed agree with each other."""

import re
import shutil
import tomllib
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from fairfal_flwr.command.launch import build_bundle, names_in

ROOT = Path(__file__).parents[1]


def test_a_flower_run_gets_the_pytorch_of_the_environment():
    with (ROOT / "pyproject.toml").open("rb") as file:
        pinned = set(tomllib.load(file)["tool"]["uv"]["constraint-dependencies"])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {pin.partition("==")[0] for pin in pinned} == {"torch", "torchvision"}
    assert pinned <= set(constraints)


def test_flower_is_one_version_everywhere():
    """In what is pinned, in the images and in what the pages say."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^flwr==(\S+)$", constraints, re.MULTILINE)
    said = r"flwr/\w+:([\d.]+\d)|superexec:([\d.]+\d)|FLOWER=([\d.]+\d)|"
    said += r"brings Flower ([\d.]+\d)|pins ([\d.]+\d)"
    places = [*(ROOT / "docker").rglob("*"), *(ROOT / "docs").glob("*.md")]
    texts = [
        p.read_text("utf-8")
        for p in places
        if p.suffix in (".yml", ".md", "") and p.is_file()
    ]
    found = [next(filter(None, m)) for text in texts for m in re.findall(said, text)]
    assert len(found) >= 8
    assert set(found) == {pinned}


def test_the_bundle_takes_what_it_names_and_nothing_that_lies_about(tmp_path):
    """A bundle travels to every client; notes beside the app stay at home."""
    app = tmp_path / "app"
    left_out = shutil.ignore_patterns("__pycache__")
    for folder in ("fairfal_flwr", "examples"):
        shutil.copytree(ROOT / folder, app / folder, ignore=left_out)
    for file in ("client_app.py", "server_app.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, app)
    clean = names_in(build_bundle(app))
    strays = ("secret_notes.py", "notes/a.py", "token.toml", "README.md", "data/x.json")
    for stray in strays:
        (app / stray).parent.mkdir(exist_ok=True)
        (app / stray).write_text("")
    assert names_in(build_bundle(app)) == clean
    code = {str(p.relative_to(app)) for p in (app / "fairfal_flwr").rglob("*.py")}
    own = {"client_app.py", "server_app.py", "pyproject.toml", "LICENSE"}
    examples = {"examples/__init__.py", "examples/my_strategy.py"}
    assert clean == code | own | examples | {".info/CONTENT"}


def test_the_wheel_takes_every_file_of_the_package(tmp_path):
    """Also what the labeling page consists of beside its code."""
    (wheel,) = WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "fairfal_flwr").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {Path(name).suffix for name in files} >= {".py", ".html", ".js", ".css"}
    with zipfile.ZipFile(wheel) as content:
        assert files <= set(content.namelist())
