"""What every registered strategy must do, without being named here."""

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worlds import MODELS, World

from fairfal_flwr.query import QueryContext, Selection
from fairfal_flwr.query import select as full_select
from fairfal_flwr.query.options import Range
from fairfal_flwr.query.registry import STRATEGIES

BUDGET = 7

# Fewer repetitions of what a strategy repeats, whichever strategy it is.
BRIEF = {"steps": 5, "num_starts": 1, "num_passes": 2, "max_iterations": 2}

# Name: how the world differs from the ordinary one.
WORLDS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "pool-of-budget": {"num_pool": BUDGET},
    "pool-of-budget-plus-1": {"num_pool": BUDGET + 1},
    "pool-below-budget": {"num_pool": BUDGET - 2},
    "one-class-labeled": {"labels": [2] * 5},
    "one-sample-labeled": {"labels": [1]},
    "absent-class": {"labels": [0, 1, 1, 3, 0, 3]},
    "two-classes": {"num_classes": 2},
    "hundred-classes": {"num_classes": 100},
    "duplicates": {"copies": 4},
    "all-the-same": {"copies": 40},
    "certain": {"sharpness": 1e4},
    "undecided": {"sharpness": 0.0},
    "dead-features": {"dead": True},
}


def select(name: str, context: QueryContext, budget: int, **options: Any) -> Selection:
    known = STRATEGIES[name].options
    brief = {option: value for option, value in BRIEF.items() if option in known}
    return full_select(name, context, budget, **brief, **options)


def each_word() -> list[Any]:
    """Return every strategy with every word that one of its options takes."""
    cases = []
    for name, strategy in STRATEGIES.items():
        for option in strategy.options.values():
            cases += [
                pytest.param(
                    name, {option.name: word}, id=f"{name}-{option.name}-{word}"
                )
                for word in (False, True) * (option.kind is bool) + option.words
            ]
    return cases


every_strategy = pytest.mark.parametrize("name", STRATEGIES)


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {name: World(**differences) for name, differences in WORLDS.items()}


def assert_sound(selection, context: QueryContext, budget: int) -> None:
    positions, size = selection.positions, min(budget, context.pool_size)
    assert positions.shape == (size,)
    assert positions.dtype == torch.int64
    assert len(positions.unique()) == size
    assert ((positions >= 0) & (positions < context.pool_size)).all()
    if selection.suggestions is not None:
        assert selection.suggestions.shape == (size,)
        assert selection.suggestions.dtype == torch.int64
    if selection.scores is not None:
        assert selection.scores.shape == (size,)
        assert selection.scores.is_floating_point()
        assert selection.scores.isfinite().all()
    for values in selection.memory.values():
        assert values.shape == (context.pool_size,)
        assert values.dtype == torch.int64
    assert all(value == value for value in selection.notes.values())


@pytest.mark.parametrize("world", WORLDS)
@every_strategy
def test_it_returns_distinct_positions_that_fill_the_budget(name, world, worlds):
    context = worlds[world].context()
    assert_sound(select(name, context, BUDGET), context, BUDGET)


@pytest.mark.parametrize("budget", [1, 39])
@every_strategy
def test_it_can_take_one_or_all_but_one(name, budget, worlds):
    context = worlds["ordinary"].context()
    assert_sound(select(name, context, budget), context, budget)


@every_strategy
def test_the_same_seed_gives_the_same_answer(name, worlds):
    first, second = (
        select(name, worlds["ordinary"].context(seed=5), BUDGET) for _ in range(2)
    )
    assert first.positions.equal(second.positions)
    assert first.notes == second.notes


@pytest.mark.parametrize(
    "name", [name for name, known in STRATEGIES.items() if "model" in known.options]
)
def test_who_lets_the_rule_choose_the_model_says_what_it_chose(name, worlds):
    selection = select(name, worlds["ordinary"].context(), BUDGET, model="adaptive")
    assert set(selection.notes) >= {"divergence", "score", "global-query"}


def snapshot(world: World, context: QueryContext) -> Any:
    outputs = {key: (o.probs, o.features) for key, o in world.outputs.items()}
    networks = {
        model: (
            network.state_dict(),
            [module.training for module in network.modules()],
            [(p.requires_grad, p.grad) for p in network.parameters()],
            [len(module._forward_hooks) for module in network.modules()],
        )
        for model, network in world.networks.items()
    }
    tensors = (world.inputs, world.labels, dict(context.memory))
    return copy.deepcopy((outputs, networks, tensors, torch.get_rng_state()))


@every_strategy
def test_it_changes_nothing_that_it_is_given(name, worlds):
    world = worlds["ordinary"]
    every_second = torch.arange(40) % 2
    remembered = STRATEGIES[name].remembers
    context = world.context(memory={key: every_second.clone() for key in remembered})
    before = snapshot(world, context)
    select(name, context, BUDGET)
    after = snapshot(world, context)
    pairs = zip(tree_leaves(before), tree_leaves(after), strict=True)
    for old, new in pairs:
        assert old.equal(new) if isinstance(old, torch.Tensor) else old == new


class Strict(TorchDispatchMode):
    """Fails at the first operation that gives a float64 or a NaN."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                assert leaf.dtype == torch.float32, func
                assert "empty" in str(func) or not leaf.isnan().any(), func
        return result


@pytest.mark.parametrize("world", ["ordinary", "absent-class", "certain", "undecided"])
@every_strategy
def test_it_computes_in_float32_and_without_nan(name, world, worlds):
    with Strict():
        select(name, worlds[world].context(), BUDGET)


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in STRATEGIES), *each_word()]
)
def test_it_asks_only_for_what_it_declares(name, options, worlds):
    world, asked = worlds["ordinary"], set()
    needs = STRATEGIES[name].requirements(options)
    watched = {key for key, watch in STRATEGIES[name].remembers.items() if watch}
    memory = {key: values for key, values in world.memory.items() if key in watched}

    def load(model):
        asked.add(model)
        return world.networks[model]

    def compute(model, split):
        asked.add(model)
        return world.outputs[model, split]

    context = QueryContext(
        compute,
        labels=world.labels,
        pool_size=40,
        num_classes=world.num_classes,
        global_imbalance=0.4 if needs.needs_imbalance else None,
        load_network=load,
        load_inputs=lambda split: world.inputs[split],
        memory=memory,
    )
    assert_sound(select(name, context, BUDGET, **options), context, BUDGET)
    assert asked <= set(needs.models) <= set(MODELS)


@every_strategy
def test_without_labels_it_chooses_or_says_what_it_needs(name):
    context = World(labels=[]).context()
    try:
        selection = select(name, context, BUDGET)
    except ValueError as error:
        message = str(error)
    else:
        message = "needs at least one labeled sample"
        assert_sound(selection, context, BUDGET)
    assert "needs at least one labeled sample" in message


@every_strategy
def test_it_is_documented(name):
    function = STRATEGIES[name].function
    assert function.__doc__
    module = __import__(function.__module__, fromlist=["__doc__"])
    assert module.__doc__


@every_strategy
def test_every_option_says_what_it_means_and_takes(name):
    """What a table of the configuration shows; `model` is the key of all strategies."""
    for option in STRATEGIES[name].options.values():
        option.check(option.default)
        assert option.meaning or option.name == "model", option.name
        assert option.kind in (bool, int, float, str), option.name
        if option.kind in (int, float):
            assert option.range != Range(), option.name
        if option.kind is str:
            assert option.words, option.name


@pytest.mark.gpu
@every_strategy
def test_the_gpu_agrees_with_the_cpu(name):
    cpu, gpu = (
        select(name, World(device=device).context(), BUDGET)
        for device in ("cpu", "cuda")
    )
    assert gpu.positions.tolist() == cpu.positions.tolist()


def test_every_model_is_one_that_some_strategy_can_go_by():
    cases = [case.values for case in each_word()]
    asked = (STRATEGIES[name].requirements(options).models for name, options in cases)
    assert {model for models in asked for model in models} == set(MODELS)
