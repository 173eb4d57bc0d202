"""Real messages to the ClientApp of a site with a policy: what it does and says."""

import logging
import sys

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from grid import FIRST_NODE_ID, InProcessGrid, small
from image_files import write_tree

from fairfal_flwr import messages
from fairfal_flwr.client.mods import with_privacy
from fairfal_flwr.client.node import explain
from fairfal_flwr.client.participant import Participant, find_participant
from fairfal_flwr.client.site_book import SiteBook
from fairfal_flwr.config import PrivacyConfig
from fairfal_flwr.errors import RefusalError, UserError
from fairfal_flwr.messages import pack_weights
from fairfal_flwr.models.architecture import Architecture


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that asks client 0 of a site with a policy file."""
    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path / "home"))
    find_participant.cache_clear()
    policy = tmp_path / "policy.toml"
    policy.write_text(f'state-roots = ["{tmp_path}"]\n')

    def ask(kind, content, **changes):
        config = small(tmp_path, "state", **changes)
        grid = InProcessGrid(config, config["num-clients"])
        grid.contexts[FIRST_NODE_ID].node_config["policy"] = str(policy)
        request = Message(content, dst_node_id=FIRST_NODE_ID, message_type=kind)
        grid.push_messages([request])
        return grid.replies[0]

    ask.policy = policy
    return ask


def words(**values):
    return RecordDict({"config": ConfigRecord(values)})


def said(reply):
    assert reply.has_error()
    assert "\n" not in reply.error.reason
    return reply.error.reason


def select(**changes):
    return words(**{"campaign": "c", "cycle": 1, "strategy": "random", **changes})


# Requests


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc", "", ".", "..", ".hidden", "a/b", "a\\b", "é", "a" * 201, 7],
)
def test_a_campaigns_name_is_one_safe_part_of_a_path(site, tmp_path, name):
    before = set(tmp_path.rglob("*"))
    for kind, content in (
        ("query.status", words(campaign=name)),
        ("query.select", select(campaign=name)),
    ):
        assert "policy error" in said(site(kind, content))
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a", "20250101-120000-hf-owner-set-my_f.x-seed0-2"])
def test_the_names_that_runs_have_are_safe(name):
    assert messages.StatusRequest(campaign=name).campaign == name


@pytest.mark.parametrize("cycle", [0, -5, 10**6, "1", 1.0, True])
def test_a_cycle_that_makes_no_sense_is_refused_without_a_policy_too(
    site, tmp_path, cycle
):
    site.policy.write_text(
        f'errors = "full"\nmissed-cycles = 9999999\nstate-roots = ["{tmp_path}"]\n'
    )
    assert "cycle is" in said(site("query.select", select(cycle=cycle)))
    assert not list(tmp_path.rglob("client-*.sqlite"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"round": 0}, "round is 0; allowed: >= 1"),
        ({"lr": float("nan")}, "lr is nan; allowed: >= 0"),
        ({"lr": "0.1"}, "lr is '0.1'"),
        ({"proximal-mu": -0.5}, "proximal-mu is -0.5"),
        ({"proximal-mu": float("inf")}, "proximal-mu is inf"),
    ],
)
def test_a_train_request_that_makes_no_sense_is_refused(site, changes, line):
    values = {"campaign": "c", "cycle": 1, "round": 1, "lr": 0.1, **changes}
    content = words(**values)
    content["arrays"] = pack_weights({"w": torch.zeros(1)})
    assert line in said(site("train", content))


@pytest.mark.parametrize("gamma", [-1e9, 1.5, float("nan")])
def test_an_imbalance_that_makes_no_sense_is_refused(site, gamma):
    content = select(**{"global-imbalance": gamma})
    assert "the global-imbalance is" in said(site("query.select", content))


def test_a_message_cannot_have_a_function_imported(site, tmp_path, monkeypatch):
    (tmp_path / "intruder.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    name = "intruder:f"
    assert "the request's strategy is" in said(
        site("query.select", select(strategy=name))
    )
    assert "`strategies`" in said(
        site("query.status", words(campaign="c"), **{"query.strategy": name})
    )
    assert "intruder" not in sys.modules


def test_a_refusal_names_the_rule_and_nothing_of_the_host(site, tmp_path):
    """Also where it goes on to look at the images, by a run's `data-dir`."""
    write_tree(tmp_path / "patients" / "Mary", {"cat": 2, "dog": 2})
    line = said(
        site(
            "query.status",
            words(campaign="c"),
            **{"data.name": "folder", "data-dir": str(tmp_path / "patients" / "Mary")},
        )
    )
    assert "`data-roots`" in line
    assert "Mary" not in line
    assert str(tmp_path) not in line


def test_the_ledger_says_which_cycle_is_next(site):
    site.policy.write_text('state-roots = ["/"]\nmissed-cycles = 0\n')
    many = {"campaign.num-cycles": 5}
    assert not site("query.select", select(), **many).has_error()
    assert "`missed-cycles`" in said(site("query.select", select(cycle=3), **many))
    for cycle in (1, 2, 1, 3):
        assert not site("query.select", select(cycle=cycle), **many).has_error()


def test_another_campaign_gets_no_more_labels(site):
    """A client labels 7 images in a cycle, a twentieth of its own."""
    site.policy.write_text('state-roots = ["/"]\nlabels = 15\nlabels-per-cycle = 7\n')
    for _ in range(2):
        for cycle in (1, 2):
            reply = site("query.select", select(cycle=cycle), **{"num-clients": 5})
            assert reply.content["metrics"]["num-selected"] == 7
    refused = site("query.select", select(campaign="d"), **{"num-clients": 5})
    assert "`labels`" in said(refused)
    more = {"campaign.budget": 0.06, "num-clients": 5}
    refused = site("query.select", select(campaign="d"), **more)
    assert "`labels-per-cycle`" in said(refused)


def test_what_is_allowed_is_done(site):
    assert not site("query.status", words(campaign="c")).has_error()
    assert not site("query.select", select()).has_error()


# Errors


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fairfal"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_names_of_files_stay_in_the_sites_log(site, tmp_path, log):
    folder = tmp_path / "Smith-John-1960"
    write_tree(folder, {"cat": 2, "dog": 2})
    (folder / "train").mkdir(exist_ok=True)
    next(folder.rglob("*.png")).write_bytes(b"no picture")
    site.policy.write_text(f'state-roots = ["/"]\ndata-roots = ["{tmp_path}"]\n')
    line = said(
        site(
            "query.status",
            words(campaign="c"),
            **{"data.name": "folder", "data-dir": str(folder)},
        )
    )
    kind, error, mark = line.split(":")[0].split()
    assert (kind, error) == ("data", "error")
    assert line == f"data error {mark}: the site's log says what it is"
    assert f"data error {mark}: " in log.text
    assert "Smith-John-1960" in log.text


@pytest.mark.parametrize(
    ("text", "kind"), [("state-roots = ['/dev']", "ledger"), ("labels = -1", "policy")]
)
def test_the_category_says_what_it_is_about(site, text, kind):
    site.policy.write_text(text)
    changes = {"state-dir": "/dev/null/state"}
    line = said(site("query.status", words(campaign="c"), **changes))
    if (
        kind == "policy"
    ):  # a policy that cannot be read; in this process errors are full
        assert "labels" in line
    else:
        assert line.startswith(f"{kind} error ")
        assert "/dev" not in line


def test_a_defect_is_an_internal_error_with_its_trace_in_the_log(
    site, monkeypatch, log
):
    def fail(*_):
        raise ZeroDivisionError("while reading /images/Smith")

    monkeypatch.setattr(Participant, "evaluate", fail)
    site.policy.write_text("evaluation = true\nstate-roots = ['/']\n")
    content = words(campaign="c")
    content["arrays"] = pack_weights({"w": torch.zeros(1)})
    line = said(site("evaluate", content))
    assert line.startswith("internal error ")
    assert "Smith" not in line
    assert "ZeroDivisionError: while reading /images/Smith" in log.text
    assert line.split(":")[0] in log.text


@pytest.mark.parametrize(
    ("error", "full", "brief"),
    [
        (UserError("no /x"), "no /x", "config error"),
        (RefusalError("the rule"), "the rule", "the rule"),
        (KeyError("x"), "KeyError: 'x'", "internal error"),
        (torch.OutOfMemoryError("x"), "OutOfMemoryError: x", "device error"),
    ],
)
def test_who_runs_a_simulation_reads_the_whole_line(error, full, brief):
    with pytest.raises(type(error)) as caught:
        raise error
    assert explain(caught.value, full=True) == full
    assert brief in explain(caught.value, full=False)


# Privacy


def train(**changes):
    torch.manual_seed(0)
    images = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    model = Architecture.for_images("cnn4", "", images, 10).build(0)
    values = {"campaign": "c", "cycle": 1, "round": 1, "lr": 0.1, **changes}
    content = words(**values)
    content["arrays"] = pack_weights(model.state_dict())
    return content


LOCAL = {"privacy.mechanism": "local", "train.epochs": 1}


def weights(reply):
    assert not reply.has_error(), reply.error
    return reply.content["arrays"].to_numpy_ndarrays()


def test_the_same_train_request_has_the_same_bytes_of_noise(site):
    """Asked 400 times it averages to itself; the secret and the counts outlive it."""
    site("query.select", select(), **LOCAL)
    first = weights(site("train", train(), **LOCAL))
    find_participant.cache_clear()
    again = weights(site("train", train(), **LOCAL))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = weights(site("train", train(**{"server-round": 1}), **LOCAL))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_same_update_hides_in_other_noise_for_another_request(tmp_path):
    """Else equal noise would tell that the update was equal too."""
    privacy = PrivacyConfig(mechanism="local")
    book = SiteBook(tmp_path / "site.sqlite", 0)

    def trained(message, _):
        sent = message.content["arrays"].to_torch_state_dict()
        content = RecordDict({"metrics": MetricRecord({"loss": 0.0})})
        content["arrays"] = pack_weights({"w": sent["w"] + 0.25})
        return Message(content, reply_to=message)

    def noise(value, **changes):
        content = words(
            **{"campaign": "c", "cycle": 1, "round": 1, "lr": 1.0} | changes
        )
        content["arrays"] = pack_weights({"w": torch.full((9,), value)})
        request = Message(content, dst_node_id=1, message_type="train")
        request.metadata.__dict__["_message_id"] = "1"
        reply = with_privacy(trained, privacy, book, None)(request, None)
        return tuple((weights(reply)[0] - value - 0.25).round(3).tolist())

    asked = [(0.0, {}), (1.0, {}), (0.0, {"round": 2}), (0.0, {"campaign": "d"})]
    drawn = [noise(value, **changes) for value, changes in asked]
    assert len(set(drawn)) == 4
    assert [noise(value, **changes) for value, changes in asked] == drawn


def test_slightly_different_requests_are_counted(site):
    site.policy.write_text('state-roots = ["/"]\nnoisy-releases = 2\n')
    site("query.select", select(), **LOCAL)
    for lr in (0.1, 0.1000001):
        assert not site("train", train(lr=lr), **LOCAL).has_error()
    for other in ({"lr": 0.1000002}, {"campaign": "d", "lr": 0.1}):
        site("query.select", select(campaign=other.get("campaign", "c")), **LOCAL)
        assert "`noisy-releases`" in said(site("train", train(**other), **LOCAL))
    assert not site("train", train(), **LOCAL).has_error()


def test_the_count_is_no_runs_to_move(site, tmp_path):
    site("query.select", select(), **LOCAL)
    site("train", train(), **LOCAL)
    assert (tmp_path / "home" / "site.sqlite").is_file()
    assert not list((tmp_path / "state").rglob("site.sqlite"))
