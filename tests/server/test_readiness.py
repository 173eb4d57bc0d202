"""What stands against a run, or may surprise, before anything starts."""

import os

import pytest

import server_app
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.server import readiness
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.evaluator import Evaluator
from fairfal_flwr.server.readiness import check_ready, remarks


def lines(**keys) -> list[str]:
    flat = {key.replace("__", ".").replace("_", "-"): v for key, v in keys.items()}
    config = RunConfig.from_flat(flat)
    return list(remarks(config, Evaluator(config).train_counts))


def test_what_the_long_tail_leaves_out_is_said_with_its_count():
    assert lines(data__imbalance_ratio=1.0) == []
    (line,) = lines()
    assert line == (
        "726 of 1437 training images are used: the long tail, data.imbalance-ratio = "
        "5, leaves out 711"
    )


@pytest.mark.parametrize(
    ("cycles", "budget", "enough"), [(30, 0.05, 20), (4, 0.3, None), (5, 0.3, 4)]
)
def test_cycles_beyond_the_last_label_are_told(cycles, budget, enough):
    found = lines(
        data__imbalance_ratio=1.0,
        campaign__num_cycles=cycles,
        campaign__budget=budget,
    )
    assert found == [
        f"all is labeled after about {n} cycles of campaign.budget = {budget:g}, and "
        f"the run ends then, not after campaign.num-cycles = {cycles}"
        for n in [enough]
        if n
    ]


def test_a_server_without_images_says_nothing_of_them():
    shape = {
        "data__class_names": "cat,dog",
        "data__image_size": 32,
        "data__channels": 1,
    }
    elsewhere = {"data__server_test": False, "federation__fraction_evaluate": 1.0}
    assert lines(**elsewhere, **shape) == []


def test_a_network_without_dropout_is_refused_by_every_way_in():
    config = RunConfig.from_flat({"query.strategy": "bald"})
    line = "`query.strategy` is bald, which needs a network with dropout"
    with pytest.raises(UserError, match=line):
        Campaign(config, grid=None)
    assert server_app.check({"query.strategy": "bald"}).startswith(line)


def test_a_network_with_dropout_will_do():
    keys = {"query.strategy": "bald", "data.image-size": 32}
    keys["model.name"] = "torchvision:efficientnet_b0"
    assert server_app.check(keys) is None


def test_nothing_is_written_by_looking(tmp_path):
    folders = {"output-dir": str(tmp_path / "a/b"), "state-dir": str(tmp_path / "c")}
    check_ready(RunConfig.from_flat(folders))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"`state-dir` is '.*/b/c', but .* cannot be w"):
        readiness._check_can_write("state-dir", tmp_path / "b/c")
