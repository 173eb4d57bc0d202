"""The heat map of classes and clients."""

import numpy as np
import pytest

from fairfal_flwr.report.partition_map import draw_partition_map


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
    assert axes.get_xlabel() == "client and its images"
    assert axes.get_ylabel() == "class and its images"
    shown = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert shown == {
        (client, label): counts[client, label]
        for client in range(2)
        for label in range(3)
    }
    for text in axes.texts:
        middle = text.get_window_extent().get_points().mean(axis=0)
        place = axes.transData.transform(text.get_position())
        assert middle == pytest.approx(place, abs=1)  # pixel
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0\n3", "1\n13"]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ["cat  5", "dog  2", "emu  9"]


def test_the_darker_the_more_and_a_number_can_be_read_on_its_color(tmp_path, drawn):
    counts = np.array([[0, 16], [64, 17]])
    draw_partition_map(counts, ["cat", "dog"], tmp_path / "m.png")
    (axes,) = drawn[0].axes
    (image,) = axes.images
    assert image.get_array().tolist() == [[0, 8], [4, np.sqrt(17)]]
    assert image.norm.vmin == 0
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert colors == {"0": "lightgray", "16": "black", "17": "white", "64": "white"}


@pytest.mark.parametrize(("num_classes", "step"), [(40, 1), (41, 2), (80, 2), (81, 3)])
def test_a_long_axis_names_every_so_many(tmp_path, drawn, num_classes, step):
    counts = np.ones((2, num_classes), dtype=int)
    names = [f"class-{label:010}" for label in range(num_classes - 1)] + ["c" * 17]
    draw_partition_map(counts, names, tmp_path / "m.png")
    (axes,) = drawn[0].axes
    assert axes.get_yticks().tolist() == list(range(0, num_classes, step))
    shown = [label.get_text() for label in axes.get_yticklabels()]
    kept = [*names[:-1], "c" * 15 + "…"][::step]
    assert shown == [f"{name}  2" for name in kept]
    assert not axes.texts


@pytest.mark.parametrize(("num_classes", "has_numbers"), [(20, True), (21, False)])
def test_a_large_table_has_colors_alone(tmp_path, drawn, num_classes, has_numbers):
    counts = np.ones((2, num_classes), dtype=int)
    draw_partition_map(counts, ["c"] * num_classes, tmp_path / "m.png")
    (axes,) = drawn[0].axes
    assert bool(axes.texts) == has_numbers
    assert axes.images[0].norm.vmin == 0  # white is none, not the least that there is
