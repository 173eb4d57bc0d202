"""Tables and pictures from summaries written by hand."""

import json

import pytest

from fairfal_flwr.errors import UserError
from fairfal_flwr.report.compare import comparison
from fairfal_flwr.report.learning_curve import draw_learning_curve, read_summaries


@pytest.fixture
def runs(tmp_path):
    def write(strategy, seed, accuracies, shares=(0.05, 0.1)):
        folder = tmp_path / f"{strategy}-{seed}"
        folder.mkdir()
        cycles = [
            {"label_fraction": share, "accuracy": accuracy, "rare_recall": accuracy / 2}
            for share, accuracy in zip(shares, accuracies, strict=True)
        ]
        summary = {"strategy": strategy, "seed": seed, "cycles": cycles}
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write


def test_means_spreads_and_paired_differences(runs):
    """Accuracies .6 and .8: mean 70, standard deviation 10·√2; differences +20, −10."""
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("fairfal", 1, (0.5, 0.8)),
        runs("random", 0, (0.5, 0.4)),
        runs("random", 1, (0.5, 0.9)),
    ]
    text = comparison(read_summaries(folders))
    assert "| test accuracy at | runs | 5% | 10% |" in text
    assert "| fairfal | 2 | 50.0 ± 0.0 | 70.0 ± 14.1 |" in text
    assert "| fairfal | 2 | 25.0 ± 0.0 | 35.0 ± 7.1 |" in text
    assert "seed by seed: +20.0, -10.0; mean +5.0." in text


def test_one_run_has_no_spread(runs):
    text = comparison(read_summaries([runs("fairfal", 0, (0.5, 0.6))]))
    assert "| fairfal | 1 | 50.0 | 60.0 |" in text
    assert "minus random" not in text


def test_runs_of_different_budgets_are_refused(runs):
    folders = [
        runs("fairfal", 0, (0.5, 0.6)),
        runs("random", 0, (0.5, 0.6), shares=(0.05, 0.2)),
    ]
    with pytest.raises(UserError, match="cannot be compared"):
        comparison(read_summaries(folders))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no summary\.json"):
        read_summaries([tmp_path])


def test_the_learning_curve_is_a_picture(runs, tmp_path):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("random", 0, (0.5, 0.4))]
    draw_learning_curve(folders, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_known_is_a_dash_and_a_gap(runs, tmp_path):
    folders = [runs("fairfal", 0, (0.5, 0.6)), runs("random", 0, (0.5, 0.4))]
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        for row in summary["cycles"]:
            row["rare_recall"] = None
        (folder / "summary.json").write_text(json.dumps(summary))
    text = comparison(read_summaries(folders))
    assert "| fairfal | 1 | - | - |" in text
    assert text.count("seed by seed") == 1  # of the accuracy alone
    draw_learning_curve(folders, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
