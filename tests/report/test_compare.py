"""Tables and pictures from runs written by hand."""

import math

import pytest
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app
from fairfal_flwr.errors import UserError
from fairfal_flwr.report.compare import HOW_PAIRED, comparison
from fairfal_flwr.report.groups import read_groups
from fairfal_flwr.report.learning_curve import draw_learning_curve
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.writer import RunWriter


def test_means_spreads_and_paired_differences(runs):
    """Accuracies .6 and .8: mean 70, standard deviation 10·√2; differences +20, −10.

    With equal steps the area is the mean of the two cycles, so its differences are half
    of the last ones. All reach 50% at the first label but the run that ends at 40%.
    """
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("fairfal", 1, (0.5, 0.8)),
        runs("random", 0, (0.5, 0.4)),
        runs("random", 1, (0.5, 0.9)),
    ]
    assert comparison(read_groups(folders)) == (
        "| test accuracy at | runs | 5% | 10% |\n"
        "|---|---|---|---|\n"
        "| fairfal | 2 | 50.0 ± 0.0 | 70.0 ± 14.1 |\n"
        "| random | 2 | 50.0 ± 0.0 | 65.0 ± 35.4 |\n"
        "\n"
        "| recall, rarest third at | runs | 5% | 10% |\n"
        "|---|---|---|---|\n"
        "| fairfal | 2 | 25.0 ± 0.0 | 35.0 ± 7.1 |\n"
        "| random | 2 | 25.0 ± 0.0 | 32.5 ± 17.7 |\n"
        "\n"
        "| minus random | measure | pairs | better in | difference (95 % interval) | p "
        "| p, corrected |\n"
        "|---|---|---|---|---|---|---|\n"
        "| fairfal | AULC of test accuracy (%) | 2 | 1 | +2.5 (too few) | 1.000 "
        "| 1.000 |\n"
        "| fairfal | final test accuracy (%) | 2 | 1 | +5.0 (too few) | 1.000 "
        "| 1.000 |\n"
        "| fairfal | final macro recall (%) | 2 | 1 | +5.0 (too few) | 1.000 "
        "| 1.000 |\n"
        "| fairfal | final recall, rarest third (%) | 2 | 1 | +2.5 (too few) | 1.000 "
        "| 1.000 |\n"
        "| fairfal | labels to reach 50.0% test accuracy | 2 | 0 | +0 (too few) "
        "| 1.000 | 1.000 |\n"
        "\n"
        f"{HOW_PAIRED}\n"
        "\n"
        "Too few pairs that differ: 4 of these 5 tests, with as few as 2 such pair(s), "
        "cannot reach p < 0.05, whatever the strategies do; 6 is the least. Take what "
        "they show for noise until there are more seeds.\n"
    )


def test_one_run_has_no_spread(runs):
    text = comparison(read_groups([runs("fairfal", 0, (0.5, 0.6))]))
    assert "| fairfal | 1 | 50.0 | 60.0 |" in text
    assert "minus random" not in text


def test_only_runs_of_the_same_seed_are_paired(runs):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("random", 1, (0.5, 0.4))]
    assert "minus random" not in comparison(read_groups(folders))


def test_runs_of_different_budgets_are_refused(runs):
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("random", 0, (0.5, 0.6), shares=(0.05, 0.2)),
    ]
    with pytest.raises(UserError, match="cannot be compared"):
        comparison(read_groups(folders))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(
        UserError, match=f"{tmp_path} is no folder of results, and none"
    ):
        read_groups([tmp_path])


def test_runs_that_are_not_finished_are_left_out_with_a_word(runs, tmp_path):
    good = runs("fairfal", 0, (0.5, 0.6))
    half = runs("fairfal", 1, (0.5, 0.6), finished=False)
    RunWriter(half).event(EventKind.FAILED, reason="no")
    young = RunWriter.create(tmp_path, "young")
    young.event(EventKind.RUN_STARTED)
    groups = read_groups([tmp_path])
    assert [run.run for run in groups.runs["fairfal"]] == [good.name]
    assert sorted(line.split(": ")[1] for line in groups.left_out) == [
        "it failed after 2 cycle(s)",
        "it is not finished after 0 cycle(s)",
    ]
    with pytest.raises(UserError, match=r"None of these runs is finished: left out .*"):
        read_groups([half, young.folder])


def test_runs_are_told_apart_by_all_that_differs_but_the_seed(runs):
    folders = [
        runs("fairfal", 0, (0.5, 0.6), config={"federation.strategy": "fedavg"}),
        runs("fairfal", 1, (0.5, 0.6), config={"federation.strategy": "fedavg"}),
        runs("fairfal", 0, (0.5, 0.6), config={"federation.strategy": "fedprox"}),
        runs("random", 0, (0.5, 0.4), config={"threads": 4, "output-dir": "/else"}),
    ]
    groups = read_groups(folders).runs
    assert {name: len(found) for name, found in groups.items()} == {
        "fairfal, federation.strategy=fedavg": 2,
        "fairfal, federation.strategy=fedprox": 1,
        "random": 1,
    }


def test_two_runs_of_one_seed_are_no_two_runs(runs):
    twice = [runs("fairfal", 3, (0.5, 0.6)) for _ in range(2)]
    with pytest.raises(UserError, match="Two runs of fairfal have seed 3: ") as error:
        read_groups(twice)
    assert all(str(folder) in str(error.value) for folder in twice)
    assert len(read_groups([twice[0], twice[0]]).runs["fairfal"]) == 1


def test_any_group_may_be_the_baseline(runs):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("margin", 0, (0.5, 0.7))]
    groups = read_groups(folders)
    text = comparison(groups, "margin")
    assert "| minus margin |" in text
    assert "| fairfal | final test accuracy (%) | 1 | 0 | -10.0 (too few) |" in text
    with pytest.raises(UserError, match="The baseline is 'badge'; allowed: fairfal; m"):
        comparison(groups, "badge")


def curves_of(figure):
    """Return the points of each panel's curves, by panel title and strategy."""
    return {
        (axis.get_title(), line.get_label()): (
            line.get_xdata().tolist(),
            line.get_ydata().tolist(),
        )
        for axis in figure.axes
        for line in axis.lines
    }


def test_the_learning_curve_shows_the_mean_over_the_runs(runs, tmp_path, drawn):
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("fairfal", 1, (0.5, 0.8)),
        runs("random", 0, (0.5, 0.4)),
    ]
    draw_learning_curve(read_groups(folders).runs, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    curves = curves_of(drawn[0])
    assert curves.keys() == {
        (title, name)
        for title in ("test accuracy", "recall, rarest third")
        for name in ("fairfal", "random")
    }
    share, percent = curves["test accuracy", "fairfal"]
    assert share == pytest.approx([5, 10])
    assert percent == pytest.approx([50, 70])
    assert curves["recall, rarest third", "random"][1] == pytest.approx([25, 20])
    for axis, mean, spread in zip(drawn[0].axes, (70, 35), (14.14, 7.07), strict=True):
        (band,) = axis.collections  # of the one that was run twice
        ends = [y for x, y in band.get_paths()[0].vertices if x == pytest.approx(10)]
        assert min(ends) == pytest.approx(mean - spread, abs=0.01)
        assert max(ends) == pytest.approx(mean + spread, abs=0.01)
        assert axis.get_legend() is not None
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("labeled images (%)", "%")


def test_what_is_not_known_is_a_dash_and_a_gap(runs, tmp_path, drawn):
    folders = [
        runs("fairfal", 0, (0.5, 0.6), rare=math.nan),
        runs("random", 0, (0.5, 0.4), rare=math.nan),
    ]
    text = comparison(read_groups(folders))
    assert "| fairfal | 1 | 50.0 | 60.0 |" in text
    assert "| fairfal | 1 | - | - |" in text
    assert "| final test accuracy (%) | 1 |" in text
    assert "| final recall, rarest third (%) |" not in text
    draw_learning_curve(read_groups(folders).runs, tmp_path / "curve.png")
    _, percent = curves_of(drawn[0])["recall, rarest third", "fairfal"]
    assert all(math.isnan(value) for value in percent)


def test_the_command_prints_the_tables_and_draws(runs, tmp_path):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("random", 0, (0.5, 0.4))]
    picture = tmp_path / "curve.png"
    words = ["compare", *map(str, folders), "--picture", str(picture)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert result.stdout == comparison(read_groups(folders))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_is_what_its_ending_says(runs, tmp_path, ending):
    picture = tmp_path / f"curve.{ending.upper()}"
    folder = str(runs("fairfal", 0, (0.5, 0.6)))
    CliRunner().invoke(app, ["compare", folder, "--picture", str(picture)])
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert picture.read_bytes().startswith(begins[ending])


def test_the_command_says_who_was_left_out_and_refuses_unknown_endings(runs, tmp_path):
    good = str(runs("fairfal", 0, (0.5, 0.6)))
    half = runs("fairfal", 1, (0.5, 0.6), finished=False)
    result = CliRunner().invoke(app, ["compare", good, str(half)])
    assert result.exit_code == 0
    assert result.stderr.startswith(
        f"fairfal: left out {half.name}: it is not finished"
    )
    picture = str(tmp_path / "curve.jpg")
    result = CliRunner().invoke(app, ["compare", good, "--picture", picture])
    assert result.exit_code == 2
    assert result.stderr == (
        f"fairfal: The picture {picture} has .jpg; allowed endings: .png, .svg, .pdf.\n"
    )
    assert result.stdout == ""


def test_the_command_names_a_folder_that_is_no_run(tmp_path):
    result = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fairfal: {tmp_path} is no folder of results")
    assert result.stderr.count("\n") == 1
