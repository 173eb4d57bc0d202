"""`select`: the one way to call a strategy, and what it refuses."""

import numpy as np
import pytest
import torch

import fairfal_flwr
from fairfal_flwr.query import Outputs, QueryContext, Selection, select
from fairfal_flwr.query.memory import PredictionChanges
from fairfal_flwr.query.registry import STRATEGIES, resolve, strategy


@pytest.fixture
def context() -> QueryContext:
    return QueryContext.from_outputs(
        {("global", "pool"): Outputs(torch.full((5, 2), 0.5), torch.ones(5, 3))},
        labels=torch.tensor([0]),
        num_classes=2,
    )


@pytest.fixture
def registered(monkeypatch):
    """Let a test register strategies that vanish with it."""
    monkeypatch.setattr("fairfal_flwr.query.registry.STRATEGIES", dict(STRATEGIES))
    return strategy


def test_an_unknown_strategy_is_answered_with_the_known_ones(context):
    with pytest.raises(ValueError, match=r"Unknown strategy 'x'; known: .*fairfal"):
        select("x", context, 1)


def test_an_unknown_option_is_answered_with_the_known_ones(context):
    with pytest.raises(ValueError, match=r"Unknown options \['kappa'\]; known: .*k_c"):
        select("fairfal", context, 1, kappa=2)


@pytest.mark.parametrize("budget", [-1, 2.5, "3"])
def test_a_budget_that_is_none_is_refused(context, budget):
    line = rf"Expected a budget, an integer >= 0; got {budget!r}\."
    with pytest.raises(ValueError, match=line):
        select("random", context, budget)


def test_a_budget_of_numpys_does(context):
    assert len(select("random", context, np.int64(3)).positions) == 3


def test_the_package_itself_offers_what_a_notebook_needs():
    assert fairfal_flwr.select is select
    assert fairfal_flwr.Outputs is Outputs
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = fairfal_flwr.selekt


def test_arrays_of_numpy_do_as_outputs():
    probs, features = np.full((5, 2), 0.5), np.ones((5, 3))
    pool = Outputs(probs, features)
    assert (pool.probs.dtype, pool.features.dtype) == (torch.float32, torch.float32)
    assert pool.features.equal(torch.ones(5, 3))


@pytest.mark.parametrize(("budget", "expected"), [(0, []), (5, [0, 1, 2, 3, 4])])
def test_a_budget_of_nothing_or_of_all_asks_no_strategy(context, budget, expected):
    assert select("fairfal", context, budget).positions.tolist() == expected
    assert select(
        "fairfal", context, budget + 99 * (budget > 0)
    ).positions.tolist() == (expected)


def test_random_draws_from_the_contexts_generator(context):
    context.generator.manual_seed(3)
    first = select("random", context, 3).positions
    context.generator.manual_seed(3)
    assert select("random", context, 3).positions.equal(first)
    assert len(first.unique()) == 3


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Selection(torch.tensor([0, 0])), "a position twice; expected distinct ones"),
        (Selection(torch.tensor([0])), r"returned \(1,\) positions; expected \(2,\)"),
        (Selection(torch.tensor([0, 5])), "positions 0 to 5; expected 0 to 4"),
        (Selection(torch.tensor([-1, 0])), "positions -1 to 0; expected 0 to 4"),
        (Selection(torch.tensor([0.0, 1.0])), "positions of torch.float32; expected"),
        (Selection([0, 1]), "positions of list; expected a tensor of int64"),
        ([0, 1], "returned a list; expected a Selection"),
        (None, "returned a NoneType; expected a Selection"),
    ],
)
def test_a_strategy_that_breaks_its_promise_is_told(context, registered, answer, line):
    @registered("broken", models=())
    def broken(context: QueryContext, budget: int) -> Selection:
        return answer

    with pytest.raises(ValueError, match=f"^The strategy 'broken' .*{line}"):
        select("broken", context, 2)


def test_an_unknown_word_for_an_option_is_refused(context):
    with pytest.raises(ValueError, match=r"Expected model: global, .*; got 'x'"):
        select("entropy", context, 1, model="x")


@pytest.mark.parametrize(
    "change",
    [
        {"scores": torch.zeros(3)},
        {"scores": torch.zeros(2, dtype=torch.int64)},
        {"memory": {"visits": torch.zeros(2, dtype=torch.int64)}},
        {"memory": {"visits": torch.zeros(5)}},
        {"memory": {"age": torch.zeros(5, dtype=torch.int64)}},
        {"memory": {"seen": torch.zeros(5, dtype=torch.int64)}},
    ],
    ids=str,
)
def test_scores_and_memory_that_do_not_fit_are_caught(context, registered, change):
    """`visits` is its own; `seen` is written by a watch, `age` nowhere declared."""
    own: dict = {}

    @registered("own", remembers={"visits": None, "seen": PredictionChanges})
    def keeps(context: QueryContext, budget: int) -> Selection:
        return Selection(torch.arange(budget), **own)

    own["memory"] = {"visits": torch.zeros(5, dtype=torch.int64)}
    own["scores"] = torch.zeros(2)
    assert select("own", context, 2).memory is own["memory"]
    own |= change
    with pytest.raises(
        ValueError, match=r"^The strategy 'own' (returned sc|remembers)"
    ):
        select("own", context, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (("global",), False)),
        ({"model": "local-last"}, (("local-last",), False)),
        ({"model": "adaptive"}, (("global", "local"), True)),
        ({"model": "adaptive-reversed"}, (("global", "local"), True)),
    ],
)
def test_requirements_follow_the_option_model(options, expected):
    assert STRATEGIES["entropy"].requirements(options) == expected


def test_attributes_speak_of_the_default_options():
    fairfal, chance = STRATEGIES["fairfal"], STRATEGIES["random"]
    assert fairfal.models == ("global", "local")
    assert fairfal.needs_imbalance
    assert (chance.models, chance.needs_imbalance) == ((), False)
    assert fairfal.options["candidate_factor"].default == 4.0


def test_requirements_may_be_functions_of_the_options(registered):
    @registered(
        "own",
        models=lambda *, wide: ("global", "local") if wide else (),
        needs_imbalance=lambda *, wide: wide,
    )
    def own(context, budget, *, wide=False):
        return Selection(torch.arange(budget))

    needs = resolve("own").requirements
    assert needs({}) == ((), False)
    assert needs({"wide": True}) == (("global", "local"), True)


def only_two_arguments(context, budget):
    return Selection(torch.arange(budget))


def only_the_local_model(context, budget, *, model="local"):
    return Selection(torch.arange(budget))


@pytest.mark.parametrize(
    ("function", "models"),
    [("only_two_arguments", ("global",)), ("only_the_local_model", ("local",))],
)
def test_a_function_of_ones_own_asks_for_the_global_model_or_its_option(
    function, models
):
    assert resolve(f"{__name__}:{function}").models == models


def test_two_strategies_of_one_name_are_refused(registered):
    with pytest.raises(AssertionError, match="two strategies are named random"):
        registered("random", models=())(lambda context, budget: Selection(budget))
