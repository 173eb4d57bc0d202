"""What a strategy sees: outputs once, sizes that fit, errors that name the cause."""

import pytest
import torch

from fairfal_flwr.query import Outputs, QueryContext


def uniform(count: int, num_classes: int = 2) -> Outputs:
    return Outputs(
        torch.full((count, num_classes), 1 / num_classes), torch.ones(count, 3)
    )


def labels(*classes: int) -> torch.Tensor:
    return torch.tensor(classes, dtype=torch.int64)


@pytest.mark.parametrize(
    ("probs", "features", "message"),
    [
        (torch.ones(2), torch.ones(2, 1), r"Expected probs \(N, C\) and features"),
        (torch.ones(2, 1), torch.ones(2), r"got \(2, 1\) and \(2,\)\."),
        (torch.ones(2, 1), torch.ones(3, 1), r"as many probs as features, got 2 and 3"),
        (torch.ones(2, 2), torch.ones(2, 1), r"every row of probs to be a distrib"),
        (torch.tensor([[1.5, -0.5]]), torch.ones(1, 1), r"to be a distribution"),
        (torch.tensor([[torch.nan, 1]]), torch.ones(1, 1), r"to be a distribution"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(probs, features, message):
    with pytest.raises(ValueError, match=message):
        Outputs(probs, features)


def test_each_output_is_computed_once_and_only_if_asked_for():
    calls = []

    def compute(model, split):
        calls.append((model, split))
        return uniform(3)

    context = QueryContext(compute, labels=labels(0), pool_size=3, num_classes=2)
    assert calls == []
    first = context.outputs("local", "pool")
    assert context.outputs("local", "pool") is first
    context.outputs("global", "pool")
    assert calls == [("local", "pool"), ("global", "pool")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            torch.zeros(2, 1, dtype=torch.int64),
            r"Expected int64 labels of shape \(M,\)",
        ),
        (torch.zeros(2), r"got torch.float32 of shape \(2,\)"),
        (torch.tensor([0, 2]), r"Expected labels in \[0, 2\), got 0 to 2\."),
        (torch.tensor([-1, 1]), r"Expected labels in \[0, 2\), got -1 to 1\."),
    ],
)
def test_labels_that_do_not_fit_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        QueryContext(lambda *_: uniform(1), labels=bad, pool_size=1, num_classes=2)


def test_a_context_from_outputs_knows_its_pool():
    outputs = {("global", "pool"): uniform(4), ("global", "labeled"): uniform(1)}
    context = QueryContext.from_outputs(outputs, labels=labels(1), num_classes=2)
    assert context.pool_size == 4
    assert context.outputs("global", "labeled") is outputs["global", "labeled"]
    with pytest.raises(KeyError):
        context.outputs("local", "pool")


@pytest.mark.parametrize(
    ("outputs", "num_classes", "message"),
    [
        ({}, 2, r"Expected one size of pool, got \[\]\."),
        (
            {("global", "pool"): uniform(2), ("local", "pool"): uniform(3)},
            2,
            r"Expected one size of pool, got \[2, 3\]\.",
        ),
        (
            {("global", "pool"): uniform(2), ("global", "labeled"): uniform(3)},
            2,
            r"Expected outputs for 1 labeled samples, got \[3\]\.",
        ),
        ({("global", "pool"): uniform(2)}, 3, r"probabilities of 3 classes"),
    ],
)
def test_outputs_that_do_not_fit_each_other_are_refused(outputs, num_classes, message):
    with pytest.raises(ValueError, match=message):
        QueryContext.from_outputs(outputs, labels=labels(0), num_classes=num_classes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            torch.zeros(4),
            r"Expected int64 memory 'visits' of shape \(N,\) = \(4,\)",
        ),
        (torch.zeros(3, dtype=torch.int64), r"memory 'visits' .* of shape \(3,\)\."),
    ],
)
def test_what_is_remembered_must_fit_the_pool(values, message):
    with pytest.raises(ValueError, match=message):
        QueryContext(
            lambda *_: uniform(4),
            labels=labels(0),
            pool_size=4,
            num_classes=2,
            memory={"visits": values},
        )


def test_networks_and_inputs_are_loaded_once():
    calls = []
    context = QueryContext.from_outputs(
        {("global", "pool"): uniform(4)},
        labels=labels(0),
        num_classes=2,
        load_network=lambda model: calls.append(model) or torch.nn.Identity(),
        load_inputs=lambda split: calls.append(split) or torch.ones(4, 1),
    )
    assert calls == []
    assert context.network("local") is context.network("local")
    assert context.inputs("pool") is context.inputs("pool")
    assert calls == ["local", "pool"]


def test_a_missing_network_or_input_is_named():
    context = QueryContext.from_outputs(
        {("global", "pool"): uniform(4)}, labels=labels(0), num_classes=2
    )
    with pytest.raises(ValueError, match="needs the global network itself"):
        context.network("global")
    with pytest.raises(ValueError, match="give the context `load_inputs`"):
        context.inputs("pool")


def test_the_default_generator_is_seeded():
    make = lambda: QueryContext.from_outputs(  # noqa: E731
        {("global", "pool"): uniform(1)}, labels=labels(), num_classes=2
    )
    seeded = torch.Generator().manual_seed(0)
    assert make().generator.get_state().equal(seeded.get_state())
    torch.rand(1, generator=make().generator)
    assert make().generator.get_state().equal(seeded.get_state())


def test_what_is_remembered_is_had_by_its_name():
    visits = torch.tensor([0, 2, 1])
    context = QueryContext.from_outputs(
        {("global", "pool"): uniform(3)},
        labels=labels(),
        num_classes=2,
        memory={"visits": visits},
    )
    assert context.remembered("visits") is visits
    with pytest.raises(ValueError, match=r"remembered as 'age' .* in `memory`\."):
        context.remembered("age")
