"""Which keys the choices of a run take.

A key that they do not take must keep its default: a knob that nothing reads is a lie.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fairfal_flwr.config.data import PARTITIONERS
from fairfal_flwr.config.federation import AGGREGATIONS
from fairfal_flwr.config.generated import OBJECTIVES, STRATEGIES
from fairfal_flwr.config.privacy import MECHANISMS
from fairfal_flwr.config.query import find_strategy
from fairfal_flwr.config.strategy import QueryStrategy, describe

if TYPE_CHECKING:
    from fairfal_flwr.config.run import RunConfig

__all__ = ["RULES", "Rule", "foreign_keys"]

# What only one kind of annotator takes.
ANNOTATORS = {"oracle": ("oracle-delay", "oracle-noise"), "person": ("votes",)}

_ADAPTIVE = ("adaptive", "adaptive-reversed")


class Rule(NamedTuple):
    """When a key is taken.

    Parameters
    ----------
    choices : tuple of str
        The keys that decide.
    allowed : str
        With which values of theirs, in words.
    taken : callable
        Whether a run takes the key.
    """

    choices: tuple[str, ...]
    allowed: str
    taken: Callable[["RunConfig"], bool]


def foreign_keys(config: "RunConfig") -> dict[str, str]:
    """Return the keys that differ from their defaults for nothing, and why."""
    defaults, flat = type(config)().to_flat(), config.to_flat()
    problems = {}
    for key, value in flat.items():
        rule = RULES.get(key) or RULES.get(key.rpartition(".")[0])
        if rule and value != defaults[key] and not rule.taken(config):
            chosen = " with ".join(f"`{name}` {flat[name]}" for name in rule.choices)
            problems[key] = (
                f"`{key}` is {value!r}, but {chosen} does not take it; "
                f"allowed with: {rule.allowed}"
            )
    return problems


def _with(choice: str, takers: Iterable[str]) -> Rule:
    """Return the rule of what some values of one key take."""
    section, _, name = choice.partition(".")
    values = tuple(takers)
    return Rule(
        (choice,),
        ", ".join(values),
        lambda config: getattr(getattr(config, section), name) in values,
    )


def _arguments(choice: str, table: Mapping[str, Iterable[str]]) -> dict[str, Rule]:
    """Return the rules of a section in which one key says what others are taken."""
    section = choice.partition(".")[0]
    keys = dict.fromkeys(key for taken in table.values() for key in taken)
    return {
        f"{section}.{key}": _with(choice, [n for n, t in table.items() if key in t])
        for key in keys
    }


def _queried(wanted: Callable[[QueryStrategy], bool], *models: str) -> Rule:
    """Return the rule of what only some queries need.

    Parameters
    ----------
    wanted : callable
        Whether a strategy needs it.
    models : str
        The values of `query.model` with which every strategy does that takes them.
    """

    def taken(config: "RunConfig") -> bool:
        name = config.query.strategy
        return wanted(find_strategy(name)) or wanted(
            describe(name, config.strategy_options(name))
        )

    return _by_query(
        [n for n, facts in STRATEGIES.items() if wanted(facts)], models, taken
    )


def _by_query(
    strategies: Iterable[str],
    models: Iterable[str],
    taken: Callable[["RunConfig"], bool],
) -> Rule:
    allowed = f"{', '.join(strategies)}, or `query.model` {', '.join(models)}"
    return Rule(("query.strategy", "query.model"), allowed, taken)


def _chooses_model(config: "RunConfig") -> bool:
    """Tell whether FairFAL's rule says which model queries."""
    model = config.query.model
    own = find_strategy(config.query.strategy).model if model == "auto" else model
    return own in _ADAPTIVE


# By key, or by section for all keys of it.
RULES: dict[str, Rule] = {
    **_arguments("data.partitioner", PARTITIONERS),
    **_arguments("federation.strategy", {n: a.takes for n, a in AGGREGATIONS.items()}),
    **_arguments("privacy.mechanism", MECHANISMS),
    **_arguments("annotation.by", ANNOTATORS),
    **dict.fromkeys(
        [f"annotation.{key}" for key in ("deadline", "min-labels", "poll-seconds")],
        Rule(
            ("annotation.by", "annotation.oracle-delay"),
            "annotation.by person, or an oracle-delay above 0",
            lambda config: (
                config.annotation.by == "person" or config.annotation.oracle_delay > 0
            ),
        ),
    ),
    **{name: _with("train.objective", [name]) for name in OBJECTIVES},
    "local": _queried(
        lambda facts: not {"local", "finetuned"}.isdisjoint(facts.models),
        *("local", "finetuned", *_ADAPTIVE),
    ),
    "distill": _queried(lambda facts: "distilled" in facts.models, "distilled"),
    "adaptive.threshold": _by_query(
        [name for name, facts in STRATEGIES.items() if facts.model in _ADAPTIVE],
        _ADAPTIVE,
        _chooses_model,
    ),
    "adaptive.balance-seed": _queried(lambda facts: facts.needs_imbalance, *_ADAPTIVE),
    **{name: _with("query.strategy", [name]) for name in STRATEGIES},
}
