"""Which runs are a pair, and what pairs come to."""

import math

import pytest
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app
from fairfal_flwr.report.compare import comparison, doubts
from fairfal_flwr.report.groups import read_groups
from fairfal_flwr.report.pairs import compare_with, outcomes, ranking


def measured(groups, **options):
    return outcomes(groups.summaries, **options)


def compared(groups, baseline="random", **options):
    """Return the comparisons by strategy and the first words of the outcome."""
    found = compare_with(groups.finished, baseline, measured(groups, **options))
    return {(each.name, each.outcome.name.split(" (")[0]): each for each in found}


def test_pairs_have_one_seed(runs):
    gains = {0: 0.1, 1: -0.2}
    folders = [runs("random", seed, (0.4, 0.5)) for seed in (0, 1, 2)]
    folders += [runs("margin", seed, (0.4, 0.5 + gains[seed])) for seed in gains]
    final = compared(read_groups(folders))["margin", "final test accuracy"]
    assert (final.effect.pairs, final.better) == (2, 1)
    assert final.effect.shift.estimate == pytest.approx(-5)  # of 10, -5 and -20


def test_runs_of_one_partition_and_two_seeds_are_no_pair(runs):
    fixed = {"data.partition-seed": 7}
    folders = [
        runs("random", 0, (0.4, 0.5), config=fixed),
        runs("margin", 1, (0.4, 0.9), config=fixed),
    ]
    assert compared(read_groups(folders)) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.partition-seed", 7),
        ("data.alpha", 1.0),
        ("data.imbalance-ratio", 2.0),
        ("data.partitioner", "iid"),
        ("num-clients", 9),
    ],
)
def test_runs_of_different_partitions_are_no_pair(runs, key, value):
    """The seed alone does not say which client has which images."""
    usual = {"data.partition-seed": -1, "data.alpha": 0.1, "num-clients": 5}
    folders = [
        runs("random", 0, (0.4, 0.5), config=usual),
        runs("margin", 0, (0.4, 0.9), config=usual | {key: value}),
    ]
    groups = read_groups(folders)
    (baseline,) = (name for name in groups.finished if name.startswith("random"))
    (lonely,) = (name for name in groups.finished if name.startswith("margin"))
    assert compared(groups, baseline) == {}
    assert doubts(groups, [], baseline) == [
        f"Not compared with {baseline}, which has no run with the same seed and "
        f"partition: {lonely}."
    ]


def test_a_partition_seed_of_its_own_is_the_same_deal_for_whoever_names_it(runs):
    """-1 takes the seed, so saying the seed itself deals the same."""
    folders = [
        runs("random", 3, (0.4, 0.5), config={"data.partition-seed": -1}),
        runs("margin", 3, (0.4, 0.6), config={"data.partition-seed": 3}),
    ]
    groups = read_groups(folders)
    (baseline,) = (name for name in groups.finished if name.startswith("random"))
    assert compared(groups, baseline)


def test_each_outcome_worked_by_hand(runs):
    """Shares 5, 10 and 30%, labels 1 to 3; the rarest have half of the accuracy."""
    shares = (0.05, 0.1, 0.3)
    folders = [
        runs("random", 0, (0.2, 0.4, 0.5), shares=shares),
        runs("margin", 0, (0.2, 0.6, 0.7), shares=shares),
    ]
    groups = read_groups(folders)
    by_name = {each.name: each for each in measured(groups)}
    random, margin = groups.runs["random"][0], groups.runs["margin"][0]
    assert {name: (of.of(random), of.of(margin)) for name, of in by_name.items()} == {
        "AULC of test accuracy (%)": pytest.approx((42.0, 60.0)),
        "final test accuracy (%)": pytest.approx((50.0, 70.0)),
        "final macro recall (%)": pytest.approx((50.0, 70.0)),
        "final recall, rarest third (%)": pytest.approx((25.0, 35.0)),
        "labels to reach 50.0% test accuracy": pytest.approx((3.0, 1.75)),
    }
    labels = compared(groups)["margin", "labels to reach 50.0% test accuracy"]
    assert labels.better == 1  # fewer labels is better
    assert labels.effect.shift.estimate == pytest.approx(-1.25)


def test_a_target_that_one_of_a_pair_misses_leaves_the_pair_out(runs):
    folders = [runs("random", seed, (0.4, 0.5 + seed / 10)) for seed in (0, 1)]
    folders += [runs("margin", seed, (0.4, 0.7)) for seed in (0, 1)]
    groups = read_groups(folders)
    name = "labels to reach 60.0% test accuracy"
    labels = compared(groups, target=0.6)["margin", name]
    assert (labels.effect.pairs, labels.unknown) == (1, 1)
    text = comparison(groups, target=0.6)
    assert f"margin, {name}: 1 pair(s) left out" in text


def test_macro_recall_is_over_the_classes_that_are_known(runs):
    folders = [
        runs("random", 0, (0.5, 0.5), recalls=(0.9, math.nan, 0.3)),
        runs("margin", 0, (0.5, 0.5), recalls=(0.9, 0.9, 0.9)),
    ]
    macro = compared(read_groups(folders))["margin", "final macro recall"]
    assert macro.effect.shift.estimate == pytest.approx(30)


def test_unknown_accuracies_have_no_labels_to_reach(runs):
    nan = math.nan
    folders = [runs(name, 0, (nan, nan)) for name in ("random", "margin")]
    assert compared(read_groups(folders)) == {}
    assert len(measured(read_groups(folders))) == 4


def many(runs, names, seeds):
    """Each strategy is better than the one before, by a margin of its own per seed."""
    return [
        runs(name, seed, (0.2, 0.3 + place / 10 + seed / 1000 * place))
        for place, name in enumerate(names)
        for seed in range(seeds)
    ]


def test_the_correction_is_over_the_strategies_of_an_outcome(runs):
    """Seven pairs of one sign: p = 2 / 2^7; of three, Holm makes three times that."""
    groups = read_groups(many(runs, ("random", "badge", "margin", "logo"), 7))
    found = compared(groups)
    finals = [
        found[name, "final test accuracy"] for name in ("badge", "margin", "logo")
    ]
    assert [each.effect.p_value for each in finals] == [2 / 2**7] * 3
    assert [each.corrected for each in finals] == [3 * 2 / 2**7] * 3
    assert doubts(groups, finals, "random") == []


def test_it_says_when_pairs_suffice_for_one_test_but_not_for_all(runs):
    groups = read_groups(many(runs, ("random", "badge", "margin"), 6))
    (doubt,) = doubts(groups, list(compared(groups).values()), "random")
    assert doubt == (
        "With 2 strategies and 6 pairs the least corrected p is 0.062 for the clearest "
        "of them; 7 pairs could show one."
    )


def test_it_says_when_there_are_too_few_pairs(runs):
    groups = read_groups(many(runs, ("random", "margin"), 5))
    (doubt,) = doubts(groups, list(compared(groups).values()), "random")
    assert "5 of these 5 tests" in doubt
    assert "6 is the least" in doubt


def test_ranks_are_over_what_all_were_run_on(runs):
    folders = many(runs, ("random", "badge", "margin"), 3)
    folders.append(runs("random", 9, (0.2, 0.99)))  # a seed of one alone
    groups = read_groups(folders)
    found = ranking(groups.finished, measured(groups)[1])
    assert found.ranks == {"margin": 1.0, "badge": 2.0, "random": 3.0}
    assert found.blocks == 3
    assert "margin 1.00, badge 2.00, random 3.00. Friedman" in comparison(groups)


def test_two_strategies_or_one_block_are_not_ranked(runs):
    two = read_groups(many(runs, ("random", "margin"), 3))
    assert ranking(two.finished, measured(two)[0]) is None
    one = read_groups(many(runs, ("fairfal", "badge", "logo"), 1))
    assert ranking(one.finished, measured(one)[0]) is None


def test_the_command_takes_a_target_in_percent(runs):
    folders = [str(runs(name, 0, (0.4, 0.6))) for name in ("random", "margin")]
    result = CliRunner().invoke(app, ["compare", *folders, "--target", "50"])
    assert result.exit_code == 0
    assert "| labels to reach 50.0% test accuracy |" in result.stdout
    assert CliRunner().invoke(app, ["compare", *folders, "--target", "101"]).exit_code
