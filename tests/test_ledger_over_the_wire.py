"""The server knows the heads of the ledgers, so none can go back in time unnoticed."""

import shutil

import pytest
from grid import InProcessGrid, facts_of, small

from fairfal_flwr.client.ledger_chain import Head
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server.campaign import Campaign


@pytest.fixture
def campaign(tmp_path):
    """Return a campaign of which a cycle is annotated and trained once."""
    keys = {"federation.round-retries": 0, "annotation.quorum": 1.0}
    values = small(tmp_path, "a", **keys, **{"state-dir": str(tmp_path / "state")})
    find_participant.cache_clear()
    made = Campaign(RunConfig.from_flat(values), InProcessGrid(values, 3))
    made.state = made.meet_clients(made.state)
    made.state = made.step(made.state)
    return made


def folder_of(campaign):
    return find_participant(
        campaign.config, 0, campaign.recorder.name
    ).ledger.path.parent


def ledgers(campaign):
    name = campaign.recorder.name
    return [find_participant(campaign.config, k, name).ledger for k in range(3)]


def test_the_server_knows_the_head_of_every_ledger(campaign):
    heads = {k: ledger.head.numbers for k, ledger in enumerate(ledgers(campaign))}
    assert campaign.state.ledgers == heads
    campaign.step(campaign.state)
    trains = [
        m for m in campaign.clients.grid.requests if m.metadata.message_type == "train"
    ]
    sent = {m.metadata.dst_node_id: m.content["config"]["ledger"] for m in trains}
    assert sent == {campaign.clients.nodes[k]: head for k, head in heads.items()}


def test_a_head_survives_a_message():
    head = Head(7, "00" + "a1" * 31)
    back = Head.from_numbers(head.numbers)
    assert back.entries == 7
    assert len(back.digest) == 15
    assert head.digest.startswith(back.digest)
    assert Head.from_numbers(None) == Head()


def test_a_state_folder_that_is_gone_is_named_and_nothing_is_created(campaign):
    """Also where the head beside the ledger went with it: the server knows."""
    folder = folder_of(campaign)
    shutil.rmtree(folder)
    find_participant.cache_clear()
    with pytest.raises(UserError, match=r"ledger \S+ is missing; it had \d entries"):
        campaign.step(campaign.state)
    assert not folder.exists()


def test_a_state_folder_from_before_the_answers_is_named(campaign, tmp_path):
    """A backup of all files together, which agree with each other."""
    folder = folder_of(campaign)
    early = tmp_path / "backup"
    shutil.copytree(folder, early)
    campaign.state = campaign.step(campaign.state)
    campaign.state = campaign.step(campaign.state)
    campaign.state = campaign.step(campaign.state)  # the second cycle's labels
    shutil.rmtree(folder)
    shutil.copytree(early, folder)
    find_participant.cache_clear()
    with pytest.raises(UserError, match=r"is an old copy, or another: it has \d+"):
        campaign.step(campaign.state)


def test_a_client_without_its_ledger_is_left_out_and_said(campaign):
    """Where the others are enough the run goes on, and its record says without whom."""
    lost = ledgers(campaign)[1].path
    for path in lost.parent.glob("client-0001*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    shutil.rmtree(lost.parent / "backups", ignore_errors=True)
    find_participant.cache_clear()
    campaign.state = campaign.step(campaign.state)
    run = read_run(campaign.recorder.folder)
    assert run.rounds[-1].clients == 2
    (dropped,) = facts_of(campaign, EventKind.REPLY_DROPPED)
    assert dropped["client"] == 1
    assert "is missing" in dropped["reason"]
