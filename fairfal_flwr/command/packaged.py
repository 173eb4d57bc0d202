"""The app that travels with the package: its two files, its config, the presets."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import CODE

__all__ = ["HOME", "with_package", "write_app"]

# Where it is: in the wheel, or around the package in a checkout.
HOME = CODE / "app" if (CODE / "app").is_dir() else CODE.parent

# What an app is made of, beside the package itself.
_FILES = ("pyproject.toml", "client_app.py", "server_app.py", "LICENSE")
_FOLDERS = ("configs", "examples")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "app")


def write_app(folder: Path) -> None:
    """Write a copy of the app that can be edited, with the package it runs on.

    Parameters
    ----------
    folder : Path
        Must not be there yet.

    Raises
    ------
    UserError
        If it is, or cannot be written; nothing is left behind then.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; name a folder that is not.")
    half = folder.with_name(f".{folder.name}.new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        half.mkdir()
        for name in _FILES:
            shutil.copyfile(HOME / name, half / name)
        for name in _FOLDERS:
            shutil.copytree(HOME / name, half / name, ignore=_LEFT_OUT)
        shutil.copytree(CODE, half / CODE.name, ignore=_LEFT_OUT)
        half.rename(folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise UserError(f"Cannot write {folder}: {error.strerror or error}.") from None


@contextmanager
def with_package(app: Path) -> Iterator[Path]:
    """Give an app's folder as it is bundled; the packaged one needs its package."""
    if app != HOME or (app / CODE.name).is_dir():
        yield app
        return
    with TemporaryDirectory(prefix="fairfal-app-") as place:
        write_app(Path(place) / "app")
        yield Path(place) / "app"
