"""What `make config` writes: all that follows from the options and the tables."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from fairfal_flwr.config.federation import AGGREGATIONS
from fairfal_flwr.config.privacy import MECHANISMS
from fairfal_flwr.config.run import RunConfig
from fairfal_flwr.files import replacing
from fairfal_flwr.generate.keys import generated_module
from fairfal_flwr.generate.reference import reference
from fairfal_flwr.generate.tables import fill_table, replace_config
from fairfal_flwr.query.registry import STRATEGIES

__all__ = ["GENERATED", "OUTPUTS", "ROOT", "main"]

ROOT = Path(__file__).parents[2]
GENERATED = "fairfal_flwr/config/generated.py"


def _project(old: str) -> str:
    nested = RunConfig().model_dump(by_alias=True)
    table = {"tool": {"flwr": {"app": {"config": nested}}}}
    return replace_config(old, tomli_w.dumps(table))


def _strategies(old: str) -> str:
    rows = {
        name: {
            "models": ", ".join(strategy.models) or "none",
            "options": _listed(
                f"{option.name}={option.default}"
                for option in strategy.options.values()
            ),
        }
        for name, strategy in STRATEGIES.items()
    }
    return fill_table(old, "strategies", rows)


def _federation(old: str) -> str:
    rows = {n: {"arguments": _listed(a.takes)} for n, a in AGGREGATIONS.items()}
    return fill_table(old, "aggregations", rows)


def _privacy(old: str) -> str:
    rows = {n: {"arguments": _listed(keys)} for n, keys in MECHANISMS.items() if keys}
    return fill_table(old, "mechanisms", rows)


def _listed(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in words) or "none"


# By file, its new text made from its old one.
OUTPUTS: dict[str, Callable[[str], str]] = {
    GENERATED: lambda _: generated_module(),
    "pyproject.toml": _project,
    "docs/configuration.md": lambda _: reference(),
    "docs/strategies.md": _strategies,
    "docs/federation.md": _federation,
    "docs/privacy.md": _privacy,
}


def main() -> None:
    """Write what has changed."""
    for file, text in OUTPUTS.items():
        changed = _write(ROOT / file, text)
        if changed and file == GENERATED:  # the rest follows from the new module
            subprocess.run([sys.executable, "-m", "fairfal_flwr.generate"], check=True)
            return


def _write(path: Path, text: Callable[[str], str]) -> bool:
    old = path.read_text(encoding="utf-8")
    if (new := text(old)) == old:
        return False
    with replacing(path) as temporary:
        temporary.write_text(new, encoding="utf-8")
    print(path.relative_to(ROOT))
    return True
