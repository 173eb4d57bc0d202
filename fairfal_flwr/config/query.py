"""The section `query`, and what is known of the strategies that it may name."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from fairfal_flwr.config.generated import STRATEGIES, ModelWord
from fairfal_flwr.config.pairs import read_options
from fairfal_flwr.config.section import OneOf, Section
from fairfal_flwr.config.strategy import QueryStrategy, describe

__all__ = ["QueryConfig", "find_strategy"]


def find_strategy(name: str) -> QueryStrategy:
    """Return what a name in `query.strategy` stands for.

    Raises
    ------
    ValueError
        If it is a function of one's own that cannot be had.
    """
    return STRATEGIES[name] if name in STRATEGIES else describe(name)


class QueryConfig(Section):
    """Which images are sent to annotation from the second cycle on."""

    strategy: Annotated[
        str, OneOf(tuple(sorted(STRATEGIES)), "module:function", r"[^:]*:.*")
    ] = Field(
        "fairfal",
        description="The query strategy, or `module:function` for one of your own "
        "(docs/strategies.md).",
    )
    model: ModelWord = Field(
        "auto",
        description="The model that a strategy with the option `model` goes by: the "
        "global one; one trained from scratch on the labels; the client's own after "
        "its last round; the global one fine-tuned on the labels; IFAL's distilled "
        "one; FairFAL's choice; the one it does not choose. `auto` is the strategy's "
        "own default.",
    )
    options: str = Field(
        "",
        description="Options of a strategy of one's own, as pairs such as "
        "`radius=0.5 rounds=3`; ours have a section of their name.",
    )
    max_pool: int = Field(
        0,
        ge=0,
        description="Images of a client that a query looks at, drawn at random from "
        "its unlabeled ones; 0 is all. Never fewer than are to be labeled.",
    )

    @field_validator("strategy")
    @classmethod
    def _can_be_had(cls, name: str) -> str:
        if name in STRATEGIES:
            return name
        from fairfal_flwr.query.registry import resolve  # brings PyTorch

        try:
            resolve(name)
        except ValueError as error:
            raise ValueError(
                f"{str(error).rstrip('.')}; allowed: a function of a module in the "
                "app's folder or installed"
            ) from None
        return name

    @field_validator("model")
    @classmethod
    def _taken(cls, model: str, info: ValidationInfo) -> str:
        strategy = info.data.get("strategy")
        if strategy is None or model == "auto":
            return model
        taken = find_strategy(strategy).model_words
        if model not in taken:
            allowed = ", ".join(["auto", *taken])
            raise ValueError(f"allowed with `query.strategy` {strategy!r}: {allowed}")
        return model

    @field_validator("options")
    @classmethod
    def _are_options(cls, text: str, info: ValidationInfo) -> str:
        strategy = info.data.get("strategy")
        if strategy is None or not text:
            return text
        if strategy in STRATEGIES:
            raise ValueError(
                f"allowed with `query.strategy` {strategy!r}: the section [{strategy}]"
            )
        options = read_options(text)
        from fairfal_flwr.query.options import check_options  # brings PyTorch
        from fairfal_flwr.query.registry import resolve

        check_options(resolve(strategy).options, options)
        return text
