"""`fairfal strategies`, `keys` and `config`: what there is to choose from."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer

from fairfal_flwr.command.arguments import AppFolder, Overrides
from fairfal_flwr.command.failing import fail
from fairfal_flwr.errors import UserError

__all__ = ["config", "keys", "strategies"]


def strategies() -> None:
    """List the query strategies: what each takes, its models, its options.

    Example: fairfal run -c query.strategy=badge
    """
    from fairfal_flwr.config import RunConfig
    from fairfal_flwr.config.generated import STRATEGIES

    flat = RunConfig().to_flat()
    for name, facts in sorted(STRATEGIES.items()):
        owned = [f"{key}={flat[key]}" for key in flat if key.startswith(f"{name}.")]
        options = ", ".join(owned) or "none"
        models = ", ".join(facts.models) or "none"
        typer.echo(f"{name}\n    {facts.summary}")
        typer.echo(f"    models: {models}; options: {options}")


def keys(
    word: Annotated[
        str, typer.Argument(metavar="[WORD]", help="In the key or in its meaning.")
    ] = "",
) -> None:
    """List the keys of the run config: default, what each takes, what it means.

    Examples: fairfal keys privacy; fairfal keys alpha
    """
    from fairfal_flwr.config import RunConfig
    from fairfal_flwr.config.section import takes, walk

    found = [
        (key, value, takes(field), field.description or "")
        for key, value, field in walk(RunConfig())
        if word.lower() in f"{key} {field.description}".lower()
    ]
    if not found:
        fail(f"no key has {word!r} in its name or meaning; see: fairfal keys", 2)
    for key, value, allowed, meaning in found:
        typer.echo(f"{_pair(key, value)}\n    takes: {allowed}\n    {meaning}")


def config(folder: AppFolder = Path(), run_config: Overrides = None) -> None:
    """Print the config that a run would get, as TOML, and where values come from.

    Example: fairfal config -c configs/fmnist-quick.toml -c seed=1 > mine.toml
    """
    from fairfal_flwr.command.run_config import find_app, layers, merge
    from fairfal_flwr.config import RunConfig

    try:
        stack = layers(find_app(folder), run_config or [])
        merged = merge(stack)
        flat = RunConfig.from_flat(merged).to_flat()
    except UserError as error:
        fail(str(error), 2)
    origins = {key: layer.origin for layer in stack for key in layer.values}
    defaults = RunConfig().to_flat()
    given = [key for key, value in merged.items() if value != defaults[key]]
    for line in _toml(flat, {key: origins[key] for key in given}):
        typer.echo(line)


def _toml(flat: dict[str, Any], origins: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a TOML file whose comments say what is no default."""
    section = ""
    for key in _by_section(flat):
        head, _, name = key.rpartition(".")
        if head != section:
            section = head
            yield f"\n[{section}]"
        origin = f"  # {origins[key]}" if key in origins else ""
        yield f"{_pair(name, flat[key])}{origin}"


def _by_section(flat: Iterable[str]) -> list[str]:
    """Return keys with those without a section first, as TOML wants it."""
    return sorted(flat, key=lambda key: "." in key)


def _pair(key: str, value: Any) -> str:
    return f"{key} = {tomli_w.dumps({'v': value}).removeprefix('v = ').rstrip()}"
