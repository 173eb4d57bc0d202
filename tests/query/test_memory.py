"""What a strategy remembers: the watch of CHASe, and a strategy made up for a test."""

import pytest
import torch

from fairfal_flwr.query import Outputs, QueryContext, Selection, select
from fairfal_flwr.query.memory import PredictionChanges
from fairfal_flwr.query.registry import STRATEGIES, resolve, strategy


def certain_of(*classes: int) -> torch.Tensor:
    return torch.eye(3)[list(classes)] * 0.7 + 0.1


def test_prediction_changes_count_from_the_second_look_on():
    """0 1 1, then 0 0 1, then 1 1 1: one change, two changes, none."""
    changes = PredictionChanges(3)
    assert changes.values.tolist() == [0, 0, 0]
    for look, expected in [
        ((0, 1, 1), [0, 0, 0]),
        ((0, 0, 1), [0, 1, 0]),
        ((1, 1, 1), [1, 2, 0]),
    ]:
        changes.look(certain_of(*look))
        assert changes.values.tolist() == expected
    assert changes.values.dtype == torch.int64


def test_what_was_read_of_a_watch_does_not_change_behind_ones_back():
    changes = PredictionChanges(1)
    changes.look(certain_of(0))
    before = changes.values
    changes.look(certain_of(1))
    assert before.tolist() == [0]


def test_a_watch_may_have_nobody_to_follow():
    changes = PredictionChanges(0)
    for _ in range(2):
        changes.look(torch.zeros(0, 3))
    assert changes.values.shape == (0,)


class DoubtfulLooks:
    """Counts the looks at which a sample's likeliest class had less than one half."""

    def __init__(self, size: int) -> None:
        self.values = torch.zeros(size, dtype=torch.int64)

    def look(self, probs: torch.Tensor) -> None:
        self.values = self.values + (probs.amax(dim=1) < 0.5).long()


@pytest.fixture
def patient(monkeypatch):
    """Register a strategy that takes who was often doubtful and long passed over."""
    monkeypatch.setattr("fairfal_flwr.query.registry.STRATEGIES", dict(STRATEGIES))

    @strategy("patient", models=(), remembers={"age": None, "doubts": DoubtfulLooks})
    def patient(context: QueryContext, budget: int, *, weight: int = 1) -> Selection:
        doubts = context.remembered("doubts")
        age = context.memory.get("age", torch.zeros_like(doubts))
        scores = (doubts + weight * age).float()
        chosen = scores.argsort(descending=True, stable=True)[:budget]
        older = (age + 1).index_fill(0, chosen, 0)
        return Selection(chosen, scores=scores[chosen], memory={"age": older})

    return resolve("patient")


def train(remembers, looks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Feed what watches while a client trains, as a client does, naming nobody."""
    watches = {name: make(len(looks[0])) for name, make in remembers.items() if make}
    for probs in looks:
        for watch in watches.values():
            watch.look(probs)
    return {name: watch.values for name, watch in watches.items()}


def test_a_strategy_with_a_memory_needs_nothing_but_its_own_file(patient):
    """Doubts are 0 1 2 0, then 0 0 1 0. Ages after the first query are 1 1 0 1.

    So the second query scores 1 1 1 1 plus nothing for the first three; with age
    counted twice, 0 and 1 come before 2.
    """
    unsure, sure = torch.full((3,), 1 / 3), torch.tensor([0.8, 0.1, 0.1])

    def look(*doubtful: int) -> torch.Tensor:
        return torch.stack([unsure if i in doubtful else sure for i in range(4)])

    pool = {("global", "pool"): Outputs(look(), torch.ones(4, 2))}
    kept: dict[str, torch.Tensor] = {}
    chosen = []
    for looks, options in [
        ([look(1, 2), look(2)], {}),
        ([look(2), look()], {"weight": 2}),
    ]:
        watched = train(patient.remembers, looks)
        context = QueryContext.from_outputs(
            pool, labels=torch.tensor([0]), num_classes=3, memory=kept | watched
        )
        selection = select("patient", context, 1, **options)
        chosen.append((selection.positions.tolist(), selection.scores.tolist()))
        kept = dict(selection.memory)
    assert chosen == [([2], [2.0]), ([0], [2.0])]
    assert kept["age"].tolist() == [0, 2, 1, 2]
