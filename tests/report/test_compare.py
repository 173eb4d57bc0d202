"""Tables and pictures from runs written by hand."""

import math

import pytest
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app
from fairfal_flwr.errors import UserError
from fairfal_flwr.report.compare import comparison
from fairfal_flwr.report.learning_curve import draw_learning_curve, read_summaries
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.rows import CycleRow, Summary
from fairfal_flwr.runs.writer import RunWriter


def cycle_row(cycle, share, accuracy, rare_recall):
    return CycleRow(
        cycle=cycle,
        labels=cycle,
        label_fraction=share,
        accuracy=accuracy,
        loss=1.0,
        rare_recall=rare_recall,
        recalls=(accuracy,),
        mean_imbalance=None,
        global_queries=None,
        query_seconds=0.0,
        train_seconds=0.0,
    )


@pytest.fixture
def runs(tmp_path):
    """Write a run; its recall of the rarest is half of its accuracy, or unknown."""

    def write(strategy, seed, accuracies, shares=(0.05, 0.1), rare=0.5):
        writer = RunWriter.create(tmp_path, f"{strategy}-{seed}")
        pairs = zip(shares, accuracies, strict=True)
        rows = (
            cycle_row(cycle, share, accuracy, accuracy * rare)
            for cycle, (share, accuracy) in enumerate(pairs, start=1)
        )
        writer.write_summary(
            Summary(
                run=writer.folder.name,
                finished=True,
                strategy=strategy,
                federation="fedavg",
                privacy=None,
                data="digits",
                seed=seed,
                seconds=1.0,
                cycles=tuple(rows),
            )
        )
        return writer.folder

    return write


def test_means_spreads_and_paired_differences(runs):
    """Accuracies .6 and .8: mean 70, standard deviation 10·√2; differences +20, −10."""
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("fairfal", 1, (0.5, 0.8)),
        runs("random", 0, (0.5, 0.4)),
        runs("random", 1, (0.5, 0.9)),
    ]
    assert comparison(read_summaries(folders)) == (
        "| test accuracy at | runs | 5% | 10% |\n"
        "|---|---|---|---|\n"
        "| fairfal | 2 | 50.0 ± 0.0 | 70.0 ± 14.1 |\n"
        "| random | 2 | 50.0 ± 0.0 | 65.0 ± 35.4 |\n"
        "\n"
        "fairfal minus random, last cycle, seed by seed: +20.0, -10.0; mean +5.0.\n"
        "\n"
        "| recall, rarest third at | runs | 5% | 10% |\n"
        "|---|---|---|---|\n"
        "| fairfal | 2 | 25.0 ± 0.0 | 35.0 ± 7.1 |\n"
        "| random | 2 | 25.0 ± 0.0 | 32.5 ± 17.7 |\n"
        "\n"
        "fairfal minus random, last cycle, seed by seed: +10.0, -5.0; mean +2.5.\n"
    )


def test_one_run_has_no_spread(runs):
    text = comparison(read_summaries([runs("fairfal", 0, (0.5, 0.6))]))
    assert "| fairfal | 1 | 50.0 | 60.0 |" in text
    assert "minus random" not in text


def test_only_runs_of_the_same_seed_are_paired(runs):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("random", 1, (0.5, 0.4))]
    assert "minus random" not in comparison(read_summaries(folders))


def test_runs_of_different_budgets_are_refused(runs):
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("random", 0, (0.5, 0.6), shares=(0.05, 0.2)),
    ]
    with pytest.raises(UserError, match="cannot be compared"):
        comparison(read_summaries(folders))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is no folder of results"):
        read_summaries([tmp_path])


def test_a_run_before_its_first_summary_is_named(tmp_path):
    writer = RunWriter.create(tmp_path, "young")
    writer.event(EventKind.RUN_STARTED)
    with pytest.raises(UserError, match="has no summary yet"):
        read_summaries([writer.folder])


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


@pytest.fixture
def drawn(monkeypatch):
    """Keep the figures that are saved."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_the_learning_curve_shows_the_mean_over_the_runs(runs, tmp_path, drawn):
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("fairfal", 1, (0.5, 0.8)),
        runs("random", 0, (0.5, 0.4)),
    ]
    draw_learning_curve(folders, tmp_path / "curve.png")
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
    text = comparison(read_summaries(folders))
    assert "| fairfal | 1 | 50.0 | 60.0 |" in text
    assert "| fairfal | 1 | - | - |" in text
    assert text.count("seed by seed") == 1  # of the accuracy alone
    draw_learning_curve(folders, tmp_path / "curve.png")
    _, percent = curves_of(drawn[0])["recall, rarest third", "fairfal"]
    assert all(math.isnan(value) for value in percent)


def test_the_command_prints_the_tables_and_draws(runs, tmp_path):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("random", 0, (0.5, 0.4))]
    picture = tmp_path / "curve.png"
    words = ["compare", *map(str, folders), "--picture", str(picture)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert result.stdout == comparison(read_summaries(folders))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_names_a_folder_that_is_no_run(tmp_path):
    result = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fairfal: {tmp_path} is no folder of results")
    assert result.stderr.count("\n") == 1
