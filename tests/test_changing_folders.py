"""A site's folder changes between two cycles: what may be added, and what must stay."""

import os
from itertools import count

import pytest
import torch
from grid import InProcessGrid
from image_files import picture, write_tree

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.client.sheet import Sheet, sheet_file, write_sheet
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import ImageSpec, PartitionSpec, load_image_set, load_shard
from fairfal_flwr.errors import UserError
from fairfal_flwr.server.campaign import Campaign


class Site:
    """A campaign of one client with a folder of its own, its first cycle trained."""

    def __init__(self, folder, **keys):
        self.folder = write_tree(folder / "scans", {"cat": 8, "dog": 8}, size=(16, 16))
        values = {
            "num-clients": 1,
            "data.name": "folder",
            "data.image-size": 16,
            "data.channels": 3,
            "data.server-test": False,
            "campaign.num-cycles": 6,
            "campaign.num-rounds": 2,
            "campaign.budget": 0.25,
            "query.strategy": "entropy",
            "federation.fraction-evaluate": 1.0,
            "federation.round-retries": 0,
            "train.epochs": 1,
            "output-dir": str(folder / "runs"),
            "state-dir": str(folder / "state"),
            "data.class-names": "cat,dog",
            **keys,
        }
        grid = InProcessGrid(values, 1)
        for context in grid.contexts.values():
            context.node_config.clear()
            context.node_config |= {"partition-id": 0, "data-path": str(self.folder)}
        self.new_process()
        self.campaign = Campaign(RunConfig.from_flat(values), grid)
        self.campaign.state = self.campaign.meet_clients(self.campaign.state)
        self.step()
        self.annotated = self.campaign.state
        self.step()

    @staticmethod
    def new_process():
        """Forget what a process knows, as a deployed client's next one does."""
        find_participant.cache_clear()
        load_image_set.cache_clear()

    def step(self):
        self.campaign.state = self.campaign.step(self.campaign.state)

    @property
    def participant(self):
        return find_participant(
            self.campaign.config, 0, self.campaign.recorder.name, str(self.folder)
        )

    def asked(self):
        """Return the files that were asked for, in the order of preference."""
        shard, ledger = self.participant.shard, self.participant.ledger
        names = dict(zip(shard.sample_ids.tolist(), shard.files, strict=True))
        return [
            names[sample]
            for cycle in range(1, ledger.last_cycle() + 1)
            for sample in ledger.selection(cycle).tolist()
        ]

    def holdings(self):
        """Return the labeled images as the training of cycle 1 sees them."""
        participant = self.participant
        data = participant.pool.as_of(1)
        return participant.shard.images[data.labeled], data.labels


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def never_asked(site):
    asked = set(site.asked())
    return next(name for name in site.participant.shard.files if name not in asked)


def add(site, names=("train/cat/a.png", "train/dog/b.png")):
    for value, name in zip(count(200), names, strict=False):
        picture(value, (16, 16)).save(site.folder / name)


def touch(site):
    for path in site.folder.rglob("*.png"):
        os.utime(path, (1, 1))


def remove_one_never_asked(site):
    (site.folder / never_asked(site)).unlink()


@pytest.mark.parametrize("change", [add, touch, remove_one_never_asked])
def test_what_was_asked_for_stays_as_it_was(site, change):
    asked, (images, labels) = site.asked(), site.holdings()
    weights = site.campaign.state.weights
    change(site)
    site.new_process()
    assert site.asked() == asked
    assert torch.equal(site.holdings()[0], images)
    assert torch.equal(site.holdings()[1], labels)
    again = site.campaign.run_round(site.annotated).weights
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    site.step()
    site.step()
    assert site.asked()[: len(asked)] == asked
    assert len(site.asked()) == 2 * len(asked)


def test_what_was_added_is_asked_for_next(site):
    asked = site.asked()
    for path in [site.folder / name for name in site.participant.shard.files]:
        if str(path.relative_to(site.folder)) not in asked:
            path.unlink()
    add(site)
    site.new_process()
    site.step()
    site.step()
    assert set(site.asked()) - set(asked) == {"train/cat/a.png", "train/dog/b.png"}
    rows = site.campaign.recorder.folder / "queries.csv"
    assert len(rows.read_text().splitlines()) == 3


def test_a_campaign_asks_for_no_more_than_its_images_at_the_start(tmp_path):
    site = Site(tmp_path, **{"campaign.budget": 0.75, "campaign.num-rounds": 1})
    add(site, [f"train/cat/new{number}.png" for number in range(20)])
    site.new_process()
    for _ in range(4):
        site.step()
    assert len(site.asked()) == 16
    assert site.campaign.state.labels == {0: 16}


def remove(path):
    path.unlink()


def rename(path):
    path.rename(path.with_name("other.png"))


def move(path):
    other = {"cat": "dog", "dog": "cat"}[path.parent.name]
    path.rename(path.parent.with_name(other) / "moved.png")


def change(path):
    status = path.stat()
    picture(250, (16, 16)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("harm", [remove, rename, move, change])
def test_what_was_asked_for_and_is_not_as_it_was_is_named(site, harm):
    asked = sorted(site.asked())
    sheet_of(site)
    content = {name: (site.folder / name).read_bytes() for name in asked[:2]}
    for name in asked[1::-1]:
        harm(site.folder / name)
    site.new_process()
    line = (
        r"2 image\(s\) that were asked for are missing, renamed or changed, first "
        rf"'{asked[0]}'; put each back where it was and as it was"
    )
    with pytest.raises(UserError, match=line):
        site.step()
    with pytest.raises(UserError, match=rf"^{line}, or point .*sqlite\)\.$"):
        site.participant  # noqa: B018
    for name, data in content.items():
        (site.folder / name).write_bytes(data)
    site.new_process()
    site.step()


def test_without_a_sheet_the_number_is_told(site):
    (site.folder / site.asked()[0]).unlink()
    sheet_file(site.participant.ledger.path).unlink(missing_ok=True)
    site.new_process()
    with pytest.raises(UserError, match=r"1 image\(s\) that were .* or changed; put"):
        site.step()


def test_a_class_folder_that_shifts_the_labels_is_refused(tmp_path):
    """Where the folders' names are the classes; the ledger's labels are numbers."""
    site = Site(tmp_path)
    path = site.participant.ledger.path
    sheet_of(site)
    before = site.participant.ledger.labeled(1)
    grown = ImageSpec("folder", str(site.folder), of_one_client=True)
    (site.folder / "train" / "bee").mkdir()
    picture(90, (16, 16)).save(site.folder / "train" / "bee" / "0.png")
    site.new_process()
    shard, _ = load_shard(grown, PartitionSpec(), 0)
    assert shard.class_names == ("bee", "cat", "dog")
    with pytest.raises(UserError) as error:
        Ledger(path, shard.identity)
    assert "\n" not in str(error.value)
    assert "other class names or another order of them (cat, dog)" in str(error.value)
    picture(90, (16, 16)).save(site.folder / "train" / "cat" / "bee.png")
    (site.folder / "train" / "bee" / "0.png").unlink()
    (site.folder / "train" / "bee").rmdir()
    shard, _ = reloaded(grown)
    back = Ledger(path, shard.identity).labeled(1)
    assert [part.tolist() for part in back] == [part.tolist() for part in before]


def test_a_class_folder_of_a_class_that_was_empty_so_far_is_welcome(tmp_path):
    site = Site(tmp_path, **{"data.class-names": "ant,cat,dog"})
    asked = site.asked()
    (site.folder / "train" / "ant").mkdir()
    add(site, ["train/ant/0.png"])
    site.new_process()
    site.step()
    site.step()
    assert site.asked()[: len(asked)] == asked


def sheet_of(site):
    """Write the sheet that names the files of the ledger's samples."""
    shard, path = site.participant.shard, site.participant.ledger.path
    files = dict(zip(shard.sample_ids.tolist(), shard.files, strict=True))
    sheet = Sheet("x", 0, shard.class_names, 1, shard.folder, True, files)
    write_sheet(sheet_file(path), sheet)


def reloaded(spec):
    load_image_set.cache_clear()
    return load_shard(spec, PartitionSpec(), 0)
