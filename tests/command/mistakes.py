"""A home to make mistakes in, and how they end (docs/errors.md)."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

import server_app
from fairfal_flwr.command import cli, launch
from fairfal_flwr.errors import UserError

ROOT = Path(__file__).parents[2]
SHOWN = "/home/me/app"  # what the page calls the home
CLASSES = ("cat", "dog")


def make_home(home: Path) -> None:
    """Fill a folder with an app, and with files that somebody got wrong."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (home / "pyproject.toml").write_text(project, encoding="utf-8")
    for name in ("good", "cut", "two-sizes", "empty-class", "one-class", "no-test"):
        write_images(
            home / name, ("train", "test") if name != "no-test" else ("train",)
        )
    truncate(home / "cut/train/cat/2.png")
    write_image(home / "two-sizes/train/cat/2.png", side=17)
    for image in (home / "empty-class/train/dog").iterdir():
        image.unlink()
    for folder in (home / "one-class/train/dog", home / "one-class/test/dog"):
        for image in folder.iterdir():
            image.unlink()
        folder.rmdir()
    (home / "empty").mkdir()
    (home / "images.npz").write_bytes(b"this is no archive")
    np.savez(home / "no-labels.npz", x_train=np.zeros((4, 8, 8), np.uint8))
    (home / "cut.toml").write_text("seed = \n")
    (home / "list.toml").write_text("seed = [1, 2]\n")
    (home / "old.toml").write_text('[query]\nstrategy = "random"\nbugdet = 3\n')
    (home / "weights.pth").write_bytes(b"none")
    (home / "a-file").write_text("x")
    (home / "policy.toml").write_text("labels-per-cycle = 0.5\n")
    (home / "mine.py").write_text("def choose(context): ...\n")


def write_images(folder: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                write_image(folder / split / name / f"{number}.png")


def write_image(path: Path, side: int = 16) -> None:
    Image.new("L", (side, side), color=int(path.stem) * 20).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def start_nothing(monkeypatch) -> None:
    """Stop a run where it would start, after what the app itself has against it."""

    def run_app(_bundle, values, **_):
        if reason := server_app.check(values):
            raise UserError(reason)
        raise AssertionError("a run was started")

    monkeypatch.setattr(launch, "build_bundle", lambda _app: b"")
    monkeypatch.setattr(launch, "run_app", run_app)
    monkeypatch.setattr(cli, "_check_travels", lambda *_: None)


def answer(command: str, home: Path) -> tuple[str, int]:
    """Return what a command says on standard error, and its exit status."""
    _, *words = shlex.split(command)
    result = CliRunner().invoke(cli.app, words, prog_name="fairfal")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stderr.replace(str(home), SHOWN), result.exit_code
