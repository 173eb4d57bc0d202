"""The page docs/configuration.md."""

import inspect

from fairfal_flwr.config.run import RunConfig
from fairfal_flwr.config.section import takes, walk
from fairfal_flwr.config.taken import RULES

__all__ = ["reference"]

_HEAD = """\
# Configuration

Every key of the run config, with its default and what it takes. Override keys on the \
command line,
`flwr run . -c 'campaign.num-cycles=9 query.strategy="random"'`, or with a TOML file, \
`flwr run . -c configs/fmnist-quick.toml`.
A mistake is answered with one line before any client is bothered. So is a key that the
choices of a run do not take, unless it has its default: `chase.subset` without
`query.strategy = "chase"`, for instance.

This page is written by `make config`."""


def reference() -> str:
    """Return the Markdown reference of all keys, grouped by section."""
    config = RunConfig()
    lines = [_HEAD]
    section = None
    for key, value, field in walk(config):
        head = key.rpartition(".")[0]
        if head != section:
            section = head
            owner = getattr(config, head.replace("-", "_"), None)
            doc = inspect.getdoc(type(owner)) if owner else "The whole run."
            lines += ["", f"## {head or 'General'}", "", doc or "", ""]
            lines += ["| key | default | takes | meaning |", "|---|---|---|---|"]
        meaning = field.description or ""
        if key in RULES:
            meaning += f" Taken by: {RULES[key].allowed}."
        meaning = meaning.replace("|", "\\|")
        lines.append(f"| `{key}` | `{_shown(value)}` | {takes(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)
