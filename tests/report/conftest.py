"""Runs written by hand, and the figures that are drawn of them."""

import pytest
from flwr.common.config import unflatten_dict
from matplotlib.figure import Figure

from fairfal_flwr.runs.rows import CycleRow, Summary
from fairfal_flwr.runs.writer import RunWriter


def cycle_row(cycle, share, accuracy, rare_recall, recalls=()):
    return CycleRow(
        cycle=cycle,
        labels=cycle,
        label_fraction=share,
        accuracy=accuracy,
        loss=1.0,
        rare_recall=rare_recall,
        recalls=recalls or (accuracy,),
        mean_imbalance=None,
        global_queries=None,
        query_seconds=0.0,
        train_seconds=0.0,
    )


@pytest.fixture
def runs(tmp_path):
    """Write a run; its recall of the rarest is half of its accuracy, or unknown."""

    def write(
        strategy,
        seed,
        accuracies,
        shares=(0.05, 0.1),
        rare=0.5,
        finished=True,
        config=None,
        recalls=(),
    ):
        writer = RunWriter.create(tmp_path, f"{strategy}-{seed}")
        if config:
            writer.write_config(unflatten_dict({"seed": seed, **config}))
        pairs = zip(shares, accuracies, strict=True)
        rows = (
            cycle_row(cycle, share, accuracy, accuracy * rare, recalls)
            for cycle, (share, accuracy) in enumerate(pairs, start=1)
        )
        writer.write_summary(
            Summary(
                run=writer.folder.name,
                finished=finished,
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


@pytest.fixture
def drawn(monkeypatch):
    """Keep the figures that are saved."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
