"""`fairfal partition --table`: the class counts of every client as a file."""

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app
from fairfal_flwr.data import ImageSpec, PartitionSpec, partition_table

ROOT = Path(__file__).parents[2]


def partition(folder: Path, *options: str):
    overrides = "num-clients=4 data.alpha=0.3 data.partition-seed=0 seed=2"
    words = ["partition", str(ROOT), "-c", overrides, "-o", str(folder / "map.png")]
    return CliRunner().invoke(app, [*words, *options])


def test_the_table_has_a_row_per_client_a_column_per_class_and_no_header(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("old")
    assert partition(tmp_path, "--table", str(path)).exit_code == 0
    spec = PartitionSpec(
        num_clients=4, seed=2, partition_seed=0, imbalance_ratio=5.0, alpha=0.3
    )
    counts, _ = partition_table(ImageSpec("digits"), spec)
    assert np.array_equal(np.loadtxt(path, delimiter=",", dtype=int), counts)
    assert counts.shape == (4, 10)
    first = path.read_text().splitlines()[0]
    assert first == ",".join(map(str, counts[0]))
    assert {file.name for file in tmp_path.iterdir()} == {"map.png", "counts.csv"}


def test_a_table_that_cannot_be_written_is_one_line(tmp_path):
    path = tmp_path / "missing" / "counts.csv"
    ran = partition(tmp_path, "--table", str(path))
    assert ran.exit_code == 2
    assert f"Cannot write {path}: No such file or directory." in ran.output.replace(
        "\n", ""
    )
    assert "Traceback" not in ran.output
