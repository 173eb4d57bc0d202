"""Campaigns on a person's own images: a shared folder, and a folder at every node."""

import csv
import json
from pathlib import Path

import pytest
from grid import InProcessGrid, run_campaign
from image_files import picture, write_tree
from people import with_people

from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.client.sheet import read_sheet, sheet_file
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_image_set
from fairfal_flwr.files import identity_of
from fairfal_flwr.server.campaign import Campaign


@pytest.fixture
def toy(tmp_path):
    """Return the keys of the shortest campaign with two clients."""
    load_image_set.cache_clear()
    return {
        "num-clients": 2,
        "data.name": "folder",
        "data.imbalance-ratio": 1.0,
        "campaign.num-cycles": 2,
        "campaign.num-rounds": 1,
        "campaign.budget": 0.25,
        "train.epochs": 1,
        "train.batch-size": 4,
        "local.max-epochs": 1,
        "output-dir": str(tmp_path / "runs"),
        "state-dir": str(tmp_path / "state"),
    }


def run_at_nodes(keys, folders):
    """Run a campaign whose nodes have `data-path` and no share of anything."""
    find_participant.cache_clear()
    grid = InProcessGrid(keys, len(folders))
    for index, context in enumerate(grid.contexts.values()):
        context.node_config.clear()
        context.node_config["partition-id"] = index
        context.node_config["data-path"] = str(folders[index])
    campaign = Campaign(RunConfig.from_flat(keys), grid)
    campaign.run()
    return campaign


def summary(campaign):
    return json.loads((campaign.recorder.folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_folder_of_color_images_with_a_network_of_torchvision(tmp_path, toy):
    write_tree(tmp_path / "data", {"cat": 8, "dog": 8}, size=(64, 64))
    keys = {
        **toy,
        "data-dir": str(tmp_path / "data"),
        "data.partitioner": "balanced-dirichlet",
        "data.alpha": 100.0,
        "model.name": "torchvision:resnet18",
    }
    campaign, _ = run_campaign(keys)
    cycles = summary(campaign)["cycles"]
    assert [row["labels"] for row in cycles] == [4, 8]
    assert 0 <= cycles[-1]["accuracy"] <= 1


@pytest.mark.slow
def test_every_node_has_its_own_folder_and_the_server_none(tmp_path, toy):
    counts = {"cat": 6, "dog": 6}, {"cat": 4, "emu": 8}
    folders = [
        write_tree(tmp_path / f"site{number}", classes, size=(20, 16))
        for number, classes in enumerate(counts)
    ]
    keys = {
        **toy,
        "data.server-test": False,
        "data.class-names": "cat,dog,emu",
        "data.image-size": 16,
        "data.channels": 3,
        "federation.fraction-evaluate": 1.0,
    }
    campaign = run_at_nodes(keys, folders)
    row = summary(campaign)["cycles"][-1]
    assert campaign.state.num_samples == 24
    assert row["labels"] == 12
    assert 0 <= row["accuracy"] <= 1
    assert len(row["recalls"]) == 3


def test_what_nobody_tests_is_unknown_in_every_file(tmp_path, toy, caplog):
    caplog.set_level("INFO", logger="fairfal.server")
    folders = []
    for number in range(2):
        site, classes = tmp_path / f"site{number}", {"cat": 4, "dog": 4}
        folders.append(write_tree(site, classes, splits=("train",), size=(16, 16)))
    keys = {
        **toy,
        "data.server-test": False,
        "data.class-names": "cat,dog",
        "data.image-size": 16,
        "data.channels": 3,
        "federation.fraction-evaluate": 1.0,
    }
    campaign = run_at_nodes(keys, folders)
    row = summary(campaign)["cycles"][-1]
    assert row["accuracy"] is row["rare-recall"] is row["loss"] is None
    assert row["recalls"] == [None, None]
    with (campaign.recorder.folder / "rounds.csv").open(newline="") as stream:
        assert {line["accuracy"] for line in csv.DictReader(stream)} == {""}
    assert "nan" not in caplog.text
    assert "the accuracy is unknown" in caplog.text


@pytest.mark.slow
def test_an_oracle_for_images_without_labels_is_one_line(tmp_path, toy):
    (tmp_path / "scans").mkdir()
    for number in range(4):
        picture(number, (16, 16)).save(tmp_path / "scans" / f"{number}.png")
    keys = {
        **toy,
        "num-clients": 1,
        "data.server-test": False,
        "data.class-names": "cat,dog",
        "data.image-size": 16,
        "data.channels": 3,
        "federation.fraction-evaluate": 1.0,
    }
    with pytest.raises(Exception, match=r"The images of client 0 have no labels") as e:
        run_at_nodes(keys, [tmp_path / "scans"])
    assert "\n" not in str(e.value)


def test_a_flat_folder_without_labels_is_labeled_by_people(tmp_path, toy):
    """Each file is shown as it is, and its name and content stand for it."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(8):
        picture(30 * number, (24, 24)).save(scans / f"{number}.png")
    keys = {
        **toy,
        "num-clients": 1,
        "data.server-test": False,
        "data.class-names": "dark,bright",
        "data.image-size": 16,
        "data.channels": 3,
        "federation.fraction-evaluate": 1.0,
        "annotation.by": "person",
        "annotation.poll-seconds": 0.001,
    }

    def person(_client, ledger, questions):
        sheet = read_sheet(sheet_file(ledger.path))
        assert sheet.class_names == ("dark", "bright")
        assert sheet.by_content
        for question in questions:
            name = sheet.files[question.sample_id]
            content = Path(sheet.folder, name).read_bytes()
            assert question.sample_id == identity_of(name, content)
            ledger.answer(question.sample_id, int(name > "3.png"), "Ann")

    find_participant.cache_clear()
    grid = InProcessGrid(keys, 1, with_people(keys, person))
    (context,) = grid.contexts.values()
    context.node_config = {"partition-id": 0, "data-path": str(scans)}
    campaign = Campaign(RunConfig.from_flat(keys), grid)
    campaign.run()
    assert summary(campaign)["cycles"][-1]["labels"] == 4
    name = campaign.recorder.name
    site = find_participant(campaign.config, 0, name, str(scans))
    holdings = site.pool.as_of(2)
    names = [site.shard.files[row] for row in holdings.labeled.tolist()]
    assert holdings.labels.tolist() == [int(name > "3.png") for name in names]
