"""`fairfal try`: a strategy of one's own on made-up contexts."""

import sys

import pytest
import torch
from typer.testing import CliRunner

from fairfal_flwr.command import cli, trial
from fairfal_flwr.query import Outputs, QueryContext
from fairfal_flwr.query.registry import STRATEGIES

GOOD = """
import torch
from fairfal_flwr.query import Selection

def chance(context, budget):
    return Selection(torch.randperm(context.pool_size)[:budget])

def spoils(context, budget):
    context.outputs("global", "pool").features.add_(1)
    return Selection(torch.arange(budget))

def option(context, budget, *, shift: int = 0):
    return Selection(torch.arange(budget) + shift)
"""


@pytest.fixture(autouse=True)
def ideas(tmp_path, monkeypatch):
    (tmp_path / "trial_ideas.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])


def attempt(*words):
    return CliRunner().invoke(cli.app, ["try", *words])


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_of_ours_passes(name):
    result = attempt(name)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [f"ok    {name}" for name in trial.CONTEXTS]


@pytest.mark.parametrize(
    ("words", "line", "last"),
    [
        (["chance"], "The same context gives two answers", "fails with ordinary"),
        (["spoils"], "It changes the outputs", "fails with ordinary"),
        (
            ["option", "--options", "shift=2"],
            "returned positions 2 to 8; expected 0 to 7",
            "fails with a pool of one more than the budget",
        ),
    ],
)
def test_the_first_mistake_is_shown_with_its_traceback(words, line, last):
    result = attempt(f"trial_ideas:{words[0]}", *words[1:])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert line in result.stderr
    assert last in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trial_ideas:absent"], "has no attribute 'absent'"),
        (["trial_ideas:option", "--options", "radius=2"], "Unknown options ['radius']"),
        (["trial_ideas:option", "--options", "shift=a"], "Expected shift: integer"),
        (["trial_ideas:option", "--options", "shift=2 3"], "'3' is no pair; allowed"),
    ],
)
def test_what_cannot_be_tried_is_one_line(words, line):
    result = attempt(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_that_is_not_given_is_said():
    pool = Outputs(torch.full((3, 2), 0.5), torch.ones(3, 4))
    context = QueryContext.from_outputs(
        {("global", "pool"): pool}, labels=torch.tensor([0]), num_classes=2
    )
    line = "No outputs of local on pool; given are: global on pool"
    with pytest.raises(KeyError, match=line):
        context.outputs("local", "pool")


def test_two_contexts_are_the_same():
    first, second = (trial.made_up_context(labels=(1,)) for _ in range(2))
    assert trial._given(first)[0].equal(trial._given(second)[0])
