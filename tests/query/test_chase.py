"""CHASe: epistemic variation, freezing and awakening."""

import pytest
import torch
from worlds import World

from fairfal_flwr.query import select
from fairfal_flwr.query.measures import entropies, scaled
from fairfal_flwr.query.memory import DORMANT
from fairfal_flwr.query.registry import resolve
from fairfal_flwr.query.strategies.chase import awaken, freeze


def mask(size: int, *positions: int) -> torch.Tensor:
    result = torch.zeros(size, dtype=torch.bool)
    result[list(positions)] = True
    return result


def context(changes: list[int], *sleepers: int):
    """Return a context that remembers changes and, if there are any, who sleeps."""
    memory = {"changes": torch.tensor(changes)}
    if sleepers:
        memory[DORMANT] = mask(len(changes), *sleepers).long()
    return World(num_pool=len(changes)).context(memory=memory)


def asleep(selection) -> list[int]:
    return selection.memory[DORMANT].nonzero().flatten().tolist()


def test_it_takes_the_largest_variation_and_freezes_what_never_varied():
    selection = select("chase", context([0, 3, 1, 0, 2, 0, 0, 0]), 2)
    assert selection.positions.tolist() == [1, 4]
    assert asleep(selection) == [0, 3, 5, 6, 7]
    assert selection.memory[DORMANT].tolist() == [1, 0, 0, 1, 0, 1, 1, 1]
    assert selection.scores.tolist() == [3, 2]
    assert selection.notes == {"dormant": 5.0}


def test_a_chosen_sample_is_never_dormant():
    selection = select("chase", context([0] * 5), 3)
    assert not set(asleep(selection)) & set(selection.positions.tolist())
    assert len(asleep(selection)) == 2


def test_the_dormant_are_not_looked_at():
    """9 awake of 10 is more than 3 · 2, so the sleeping favorite sleeps on."""
    selection = select("chase", context([1, 9, 2, *[1] * 7], 1), 2)
    assert 1 not in selection.positions
    assert selection.positions[0] == 2
    assert asleep(selection) == [1]


def test_where_too_few_are_awake_sleepers_fill_the_budget():
    selection = select("chase", context([5] * 6, 0, 1, 2, 3, 4), 3, awaken_ratio=0.0)
    assert 5 in selection.positions
    assert len(selection.positions.unique()) == 3


def test_ties_are_broken_at_random_not_by_position():
    picks = {
        tuple(sorted(select("chase", ctx, 2).positions.tolist()))
        for seed in range(4)
        for ctx in [
            World(num_pool=9).context(
                seed=seed, memory={"changes": torch.ones(9, dtype=torch.int64)}
            )
        ]
    }
    assert len(picks) > 2


def test_the_subset_limits_what_is_looked_at():
    selection = select("chase", context([0] * 30), 2, subset=10)
    assert len(asleep(selection)) == 8


def test_variation_entropy_adds_the_scaled_gap_of_entropies():
    world = World(num_pool=30)
    changes = torch.zeros(30, dtype=torch.int64)
    gap = entropies(world.outputs["global", "pool"].probs) - entropies(
        world.outputs["local-last", "pool"].probs
    )
    picks = select(
        "chase",
        world.context(memory={"changes": changes}),
        4,
        score="variation-entropy",
    ).positions
    assert picks.equal(gap.argsort(descending=True)[:4])
    changes[int(gap.argsort()[15])] = 2
    picks = select(
        "chase",
        world.context(memory={"changes": changes}),
        4,
        score="variation-entropy",
    ).positions
    assert picks[0] == gap.argsort()[15]


@pytest.mark.parametrize(("factor", "awake"), [(3.0, 4), (2.0, 4), (1.9, 0)])
def test_sleepers_wake_where_few_are_awake(factor, awake):
    """10 sleep and 4 are awake; b = 2, so the limit is factor · 2."""
    dormant = mask(14, *range(10))
    after = awaken(
        dormant,
        2,
        ratio=0.4,
        factor=factor,
        generator=torch.Generator().manual_seed(0),
    )
    assert dormant.sum() - after.sum() == awake
    assert not after[10:].any()
    assert after is not dormant


def test_freeze_by_hand():
    changes = torch.tensor([0, 0, 0, 1, 0])
    after = freeze(
        mask(5, 4), changes, torch.tensor([0, 1, 3, 4]), torch.tensor([1, 4])
    )
    assert after.tolist() == mask(5, 0).tolist()


def test_without_prediction_changes_it_says_what_it_needs():
    with pytest.raises(ValueError, match=r"remembered as 'changes' .* in `memory`\."):
        select("chase", World().context(memory={}), 3)


def test_scores_are_scaled_from_their_least_to_their_largest():
    assert scaled(torch.tensor([3.0, 5.0, 4.0])).tolist() == [0, 1, 0.5]
    assert scaled(torch.tensor([-2.0, 2.0])).tolist() == [0, 1]
    assert scaled(torch.tensor([7.0, 7.0])).tolist() == [0, 0]


def test_only_the_score_with_entropy_asks_for_models():
    requirements = resolve("chase").requirements
    assert requirements({"score": "variation"}).models == ()
    assert requirements({"score": "variation-entropy"}).models == (
        "global",
        "local-last",
    )
