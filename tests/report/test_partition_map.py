"""The heat map of classes and clients."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fairfal_flwr.report.partition_map import draw_partition_map


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


@pytest.mark.parametrize("shape", [(1, 2), (3, 25), (40, 60)])
def test_a_picture_is_written_whatever_the_size(tmp_path, shape):
    counts = np.arange(np.prod(shape)).reshape(shape)
    names = [f"class number {label} of many" for label in range(shape[1])]
    draw_partition_map(counts, names, tmp_path / "map.png", title="a deal")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_it_shows_each_count_at_its_client_and_class_and_the_sums(tmp_path, drawn):
    counts = np.array([[1, 2, 0], [4, 0, 9]])
    draw_partition_map(counts, ["cat", "dog", "emu"], tmp_path / "m.png", title="deal")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "deal"
    shown = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert shown == {
        (client, label): counts[client, label]
        for client in range(2)
        for label in range(3)
    }
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0\n3", "1\n13"]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ["cat  5", "dog  2", "emu  9"]
