"""The command `fairfal try`: a query strategy on made-up contexts, in seconds."""

import sys
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fairfal_flwr.command.failing import fail

if TYPE_CHECKING:
    from fairfal_flwr.query import QueryContext, Selection

__all__ = ["try_strategy"]

BUDGET = 7
# What is awkward about each, as `made_up_context` takes it.
CONTEXTS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "a pool of one more than the budget": {"num_pool": BUDGET + 1},
    "labels of one class": {"labels": (2, 2, 2)},
    "one label": {"labels": (1,)},
    "two classes": {"num_classes": 2},
    "a hundred classes": {"num_classes": 100},
    "predictions that are certain": {"sharpness": 1e4},
    "predictions that say nothing": {"sharpness": 0.0},
    "images that are all the same": {"distinct": 1},
    "features that are all 0": {"feature_scale": 0.0},
}


def try_strategy(
    strategy: Annotated[
        str, typer.Argument(help="A name, or module:function in this folder.")
    ],
    options: Annotated[
        str, typer.Option(help="Its options, such as 'radius=0.5 rounds=3'.")
    ] = "",
) -> None:
    """Run a query strategy on made-up contexts, ordinary and awkward ones.

    Checks that it fills the budget with distinct positions, that the same seed gives
    the same answer, and that nothing is changed that it is given. The first mistake is
    shown with its traceback.

    Example: fairfal try examples.my_strategy:rarest_first
    """
    from fairfal_flwr.config.pairs import read_options
    from fairfal_flwr.query.options import check_options
    from fairfal_flwr.query.registry import resolve

    sys.path.insert(0, str(Path.cwd()))
    try:
        given = read_options(options)
        check_options(resolve(strategy).options, given)
    except ValueError as error:
        fail(str(error), 2)
    for name, awkward in CONTEXTS.items():
        try:
            _try(strategy, awkward, given)
        except Exception as error:  # the user's own may fail in any way
            typer.echo("".join(format_exception(error)), err=True, nl=False)
            fail(f"{strategy} fails with {name}", 1)
        typer.echo(f"ok    {name}")


def _try(strategy: str, awkward: dict[str, Any], options: dict[str, Any]) -> None:
    """Select twice from one context.

    Raises
    ------
    ValueError
        If the answers differ, or something that was given has changed.
    """
    from fairfal_flwr.query import select
    from fairfal_flwr.query.registry import resolve

    remembered = tuple(resolve(strategy).remembers)
    first_context, second_context = (
        made_up_context(**awkward, remembered=remembered) for _ in range(2)
    )
    before = _given(first_context)
    first = select(strategy, first_context, BUDGET, **options)
    second = select(strategy, second_context, BUDGET, **options)
    if not _same(first, second):
        raise ValueError(
            "The same context gives two answers; take all randomness from "
            "context.generator."
        )
    if any(not a.equal(b) for a, b in zip(before, _given(first_context), strict=True)):
        raise ValueError("It changes the outputs or labels that it is given.")


def _same(first: "Selection", second: "Selection") -> bool:
    return first.positions.equal(second.positions)


def _given(context: "QueryContext") -> list[Any]:
    pool = context.outputs("global", "pool")
    return [pool.probs.clone(), pool.features.clone(), context.labels.clone()]


def made_up_context(
    *,
    num_pool: int = 40,
    num_classes: int = 4,
    labels: tuple[int, ...] | None = None,
    sharpness: float = 1.0,
    distinct: int | None = None,
    feature_scale: float = 1.0,
    remembered: tuple[str, ...] = (),
) -> "QueryContext":
    """Return a context of made-up networks and images; the same each time.

    Parameters
    ----------
    num_pool, num_classes : int
        Sizes.
    labels : tuple of int, optional
        Of the labeled samples; three of each class by default.
    sharpness : float
        Factor on the logits.
    distinct : int, optional
        How many different images there are; all by default.
    feature_scale : float
        Factor on the features.
    remembered : tuple of str
        What is remembered of each sample of the pool: 0.
    """
    import torch

    from fairfal_flwr.query import Outputs, QueryContext
    from fairfal_flwr.query.context import Model, Split

    labels = labels or tuple(range(num_classes)) * 3
    generator = torch.Generator().manual_seed(0)
    sizes: dict[Split, int] = {"pool": num_pool, "labeled": len(labels)}
    networks: dict[Model, Any] = {}

    def network(model: Model) -> Any:
        if model not in networks:
            seed = get_args(Model).index(model)
            networks[model] = _network(num_classes, seed=seed)
        return networks[model]

    images = {
        split: torch.randn(size, 6, generator=generator)
        for split, size in sizes.items()
    }
    if distinct:
        images["pool"] = images["pool"][:distinct].repeat(num_pool, 1)[:num_pool]

    def outputs(model: Model, split: Split) -> Outputs:
        with torch.no_grad():
            features, logits = network(model).features_and_logits(images[split])
        probs = (sharpness * logits).softmax(dim=1)
        return Outputs(probs, feature_scale * features)

    return QueryContext(
        outputs,
        labels=torch.tensor(labels),
        pool_size=num_pool,
        num_classes=num_classes,
        global_imbalance=0.4,
        memory=dict.fromkeys(remembered, torch.zeros(num_pool, dtype=torch.int64)),
        load_network=network,
        load_inputs=lambda split: images[split],
    )


def _network(num_classes: int, *, seed: int) -> Any:
    """Return a small network with dropout, in evaluation mode."""
    import torch
    from torch import nn

    from fairfal_flwr.models.classifier import Classifier

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3))
        return Classifier(backbone, nn.Linear(8, num_classes)).eval()
