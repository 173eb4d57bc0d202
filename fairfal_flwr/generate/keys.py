"""The module `generated`: what the rest of the package offers, as keys and names."""

import inspect
import subprocess
import sys
from collections.abc import Iterable
from typing import get_args

from fairfal_flwr.client.objectives import OBJECTIVES, RegisteredObjective
from fairfal_flwr.config.strategy import QueryStrategy, describe
from fairfal_flwr.data.datasets import SOURCES
from fairfal_flwr.models import MODELS
from fairfal_flwr.query.adaptive_rule import AdaptiveRule
from fairfal_flwr.query.context import Model
from fairfal_flwr.query.model_choice import ADAPTIVE
from fairfal_flwr.query.options import Option, options_of
from fairfal_flwr.query.registry import STRATEGIES

__all__ = ["generated_module", "section_options"]

_HEAD = '''# ruff: noqa: E501, RUF001
"""What strategies, objectives, networks and image sets there are, and their keys.

Written by `make config` from their code; do not edit. After a conflict in it, take
either side and say `make config`.
"""

from typing import Literal

from pydantic import Field

from fairfal_flwr.config.section import Section
from fairfal_flwr.config.strategy import QueryStrategy
'''
_DOC = "Which model queries by FairFAL's rule; read where the choice is adaptive."
_SECTIONS = '''
class OptionSections(Section):
    """A section for each strategy or objective with options, and the model choice."""
'''
_MODEL_WORDS = (*get_args(Model), *ADAPTIVE)


def section_options(name: str) -> list[Option]:
    """Return the options of a strategy that are keys of its section.

    Its option `model` is `query.model`.
    """
    options = STRATEGIES[name].options.values()
    return [option for option in options if option.name != "model"]


def generated_module() -> str:
    """Return the text of the module."""
    sections = {}
    for name, (doc, options) in _sections().items():
        if options:
            sections[name] = _section(name, doc, options)
    parts = [_HEAD, _names(), *sections.values(), _SECTIONS, *map(_member, sections)]
    return _formatted("\n".join(parts))


def _sections() -> dict[str, tuple[str, list[Option]]]:
    """Return by name what a section is for, and its options."""
    objectives = {
        name: (_objective_doc(entry), list(entry.options.values()))
        for name, entry in sorted(OBJECTIVES.items())
    }
    strategies = {
        name: (f"Options of the query strategy `{name}`.", section_options(name))
        for name in sorted(STRATEGIES)
    }
    both = objectives.keys() & strategies.keys()
    assert not both, f"a strategy and an objective are both named {both}"
    rule = {"adaptive": (_DOC, list(options_of(AdaptiveRule).values()))}
    return objectives | rule | strategies


def _objective_doc(entry: RegisteredObjective) -> str:
    summary = (inspect.getdoc(entry.function) or "").partition("\n")[0]
    return f"""{summary.removeprefix("Return ")}

    Read where `train.objective` is `{entry.name}`.
    """


def _names() -> str:
    lines = [
        f"IMAGE_SETS = {tuple(SOURCES)!r}",
        f"NETWORKS = {tuple(MODELS)!r}",
        f"OBJECTIVES = {tuple(sorted(OBJECTIVES))!r}",
        f"ModelWord = {_literal(('auto', *_MODEL_WORDS))}",
        f"ANY_MODEL = {_MODEL_WORDS!r}",
        "STRATEGIES: dict[str, QueryStrategy] = {",
        *(f"{name!r}: {_call(describe(name))}," for name in sorted(STRATEGIES)),
        "}",
    ]
    return "\n".join(lines)


def _call(facts: QueryStrategy) -> str:
    """Return the code that makes it, in short."""
    values = [repr(value) for value in facts]
    values = ["ANY_MODEL" if value == repr(_MODEL_WORDS) else value for value in values]
    defaults = [repr(default) for default in QueryStrategy()]
    while values and values[-1] == defaults[len(values) - 1]:
        values.pop()
    return f"QueryStrategy({', '.join(values)})"


def _section(name: str, doc: str, options: Iterable[Option]) -> str:
    options = list(options)
    lines = [f"class {_class(name)}(Section):", f'    """{doc}"""']
    return "\n".join([*lines, *(_field(option, options) for option in options)])


def _field(option: Option, siblings: Iterable[Option]) -> str:
    kind = _literal(option.words) if option.words else option.kind.__name__
    limits = {n: b for n, b in vars(option.range).items() if b is not None}
    meaning = option.meaning
    for sibling in siblings:  # which the docstring calls as Python does
        key = sibling.name.replace("_", "-")
        meaning = meaning.replace(f"`{sibling.name}`", f"`{key}`")
    arguments = [
        repr(option.default),
        *(f"{name}={bound!r}" for name, bound in limits.items()),
        f"description={meaning!r}",
    ]
    return f"    {option.name}: {kind} = Field({', '.join(arguments)})"


def _member(name: str) -> str:
    attribute = name.replace("-", "_")
    return f"    {attribute}: {_class(name)} = Field(default_factory={_class(name)})"


def _literal(words: Iterable[str]) -> str:
    return f"Literal[{', '.join(map(repr, words))}]"


def _class(name: str) -> str:
    return f"{name.title().replace('-', '')}Config"


def _formatted(code: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "x.py", "-"]
    return subprocess.run(
        command, input=code, capture_output=True, text=True, check=True
    ).stdout
