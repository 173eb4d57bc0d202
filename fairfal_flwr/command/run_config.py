"""The run config that a run of an app would get, read without Flower or PyTorch.

Both take seconds to import, and most mistakes are in what is typed here.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fairfal_flwr.command.packaged import HOME
from fairfal_flwr.config import RunConfig, Scalar
from fairfal_flwr.config.pairs import PAIR, left_over, read_pairs
from fairfal_flwr.errors import UserError

__all__ = ["Layer", "find_app", "layers", "merge", "merge_run_config", "read_overrides"]


_PROJECT = "pyproject.toml"
_DEFAULTS = RunConfig().to_flat()


class Layer(NamedTuple):
    """Values by dotted key, and where they are from."""

    origin: str
    values: Mapping[str, Any]


def find_app(folder: Path) -> Path:
    """Return the folder of an app: the one named, the one here, or the packaged one."""
    if folder == Path() and not _has_app(folder):
        return HOME
    return folder.resolve()


def _has_app(folder: Path) -> bool:
    file = folder / _PROJECT
    return file.is_file() and "app" in _read_toml(file).get("tool", {}).get("flwr", {})


def merge_run_config(
    app: Path,
    overrides: Iterable[str] = (),
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the run config that a run of an app would get.

    Parameters
    ----------
    app : Path
        The app's folder, with its ``pyproject.toml``; see `find_app`.
    overrides : Iterable[str]
        Each a TOML file's path or key-value pairs; the later wins. Beyond Flower's
        syntax, text needs no quotes where the app's own value is text, and Python's
        words for true and false do.
    before : Mapping[str, Any], optional
        Values by dotted key, between the app's own and the overrides.

    Returns
    -------
    dict[str, Any]
        Values by dotted key.

    Raises
    ------
    UserError
        If the app or an override cannot be read.
    """
    own, *rest = layers(app, overrides)
    return merge([own, Layer("before", before or {}), *rest])


def merge(stack: Iterable[Layer]) -> dict[str, Any]:
    """Return the values of all layers; the later wins."""
    return {key: value for layer in stack for key, value in layer.values.items()}


def layers(app: Path, overrides: Iterable[str] = ()) -> list[Layer]:
    """Return where values come from, the app's own first; see `merge_run_config`."""
    own = _own_values(app)
    return [Layer(str(app / _PROJECT), own), *(_layer(text, own) for text in overrides)]


def _find_file(text: str) -> Path:
    """Return a file, of the presets that came with the package where there is none."""
    file = Path(text).expanduser()
    return file if file.exists() or not (HOME / text).is_file() else HOME / text


def read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return what overrides say, without an app whose values they override.

    Raises
    ------
    UserError
        If one cannot be read.
    """
    return merge(_layer(text, _DEFAULTS) for text in overrides)


def _layer(text: str, own: Mapping[str, Any]) -> Layer:
    if text.endswith(".toml") and not PAIR.fullmatch(text):
        return Layer(text, _flat(_read_toml(_find_file(text)), text))
    return Layer("-c", _read_pairs(text, own))


def _own_values(app: Path) -> dict[str, Any]:
    """Return the app's own values."""
    file = app / _PROJECT
    if not file.is_file():
        raise UserError(f"{app} is no folder of a Flower app: it has no {_PROJECT}.")
    match _read_toml(file):
        case {"tool": {"flwr": {"app": {"config": dict(values)}}}}:
            return _flat(values, str(file))
        case {"tool": {"flwr": {"app": {}}}}:
            return {}
    raise UserError(f"{file} is of no Flower app: it has no [tool.flwr.app].")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {file}: {error}.") from None


def _flat(values: Mapping[str, Any], place: str, prefix: str = "") -> dict[str, Any]:
    """Return nested tables by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= _flat(value, place, f"{key}.")
        elif isinstance(value, Scalar):
            flat[key] = value
        else:
            raise UserError(
                f"{place}: `{key}` is {value!r}; allowed: number, text, true or false."
            )
    return flat


def _read_pairs(text: str, own: Mapping[str, Any]) -> dict[str, Any]:
    pairs = dict(read_pairs(text, lambda key: isinstance(own.get(key), str)))
    no_pairs = left_over(text)
    if no_pairs or not pairs:
        word = f": `{no_pairs[0]}` is no pair" if no_pairs else ""
        raise UserError(
            f"Cannot read the run config `{text}`{word}: write key=value pairs, such "
            "as 'seed=1 query.strategy=random', text with blanks in quotes, or name a "
            ".toml file."
        )
    return pairs
