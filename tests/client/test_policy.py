"""What a site refuses, whatever the server asks for."""

import sys

import pytest

from fairfal_flwr.client import policy as policy_module
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.policy import OWN_HOST, Policy, default_policy, find_policy
from fairfal_flwr.client.site_book import SiteBook
from fairfal_flwr.config import RunConfig
from fairfal_flwr.config.privacy import MECHANISMS
from fairfal_flwr.errors import RefusalError, UserError
from fairfal_flwr.messages import (
    EvaluateRequest,
    ImbalanceRequest,
    SelectRequest,
    TrainRequest,
)


def select(cycle=1, strategy="random"):
    return SelectRequest(campaign="c", cycle=cycle, strategy=strategy)


def train(cycle=1, round_=1):
    return TrainRequest(campaign="c", weights={}, cycle=cycle, round=round_, lr=0.1)


def config(**values):
    return RunConfig.from_flat(
        {key.replace("__", ".").replace("_", "-"): v for key, v in values.items()}
    )


# Where it is read from


@pytest.fixture
def deployed(monkeypatch):
    """Let this process look like a SuperNode's, where no server was imported."""
    for name in [n for n in sys.modules if n.startswith("fairfal_flwr.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("FAIRFAL_POLICY", raising=False)


def test_a_deployed_host_without_a_policy_has_the_strict_one(deployed):
    assert find_policy({}) == Policy()


def test_where_the_server_is_in_this_process_the_runs_owner_decides(
    deployed, monkeypatch
):
    monkeypatch.setitem(sys.modules, "fairfal_flwr.server", object())
    assert find_policy({}) is OWN_HOST


@pytest.mark.parametrize("initialized", [True, False])
def test_an_actor_of_ray_is_a_simulation(deployed, monkeypatch, initialized):
    ray = type("Ray", (), {"is_initialized": staticmethod(lambda: initialized)})
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert (default_policy() is OWN_HOST) == initialized


def test_the_node_config_goes_before_the_environment(deployed, tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / f"{number}.toml").write_text(f"labels = {number}\n")
    monkeypatch.setenv("FAIRFAL_POLICY", str(tmp_path / "1.toml"))
    assert find_policy({}).labels == 1
    assert find_policy({"policy": str(tmp_path / "2.toml")}).labels == 2


def test_every_key_can_be_set(tmp_path):
    text = """
    strategies = ["built-in", "lab.*:*"]
    data-roots = ["/images"]
    weights-roots = ["/weights"]
    state-roots = ["/state"]
    labels-per-cycle = 20
    labels = 100
    missed-cycles = 0
    evaluation = true
    privacy = ["local"]
    epsilon = 1
    noisy-releases = 30
    errors = "full"
    """
    (tmp_path / "policy.toml").write_text(text)
    found = find_policy({"policy": str(tmp_path / "policy.toml")})
    default = Policy()
    assert all(
        getattr(found, name) != getattr(default, name) for name in Policy.model_fields
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("labels = -1", "`labels` is -1; allowed: .*>= 0"),
        ("label = 1", r"unknown key `label` \(did you mean `labels`"),
        ('privacy = ["locl"]', "'locl'; allowed: none, server-fixed"),
        ("labels = ", "Cannot read the policy"),
        ('errors = "all"', "`errors` is 'all'; allowed: category, full"),
        (None, "Cannot read the policy .*No such file"),
    ],
)
def test_a_policy_that_cannot_be_read_is_one_line(tmp_path, text, line):
    path = tmp_path / "policy.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=line) as error:
        find_policy({"policy": str(path)})
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, RefusalError)


# Strategies


@pytest.mark.parametrize(
    ("allowed", "name", "admitted"),
    [
        (("built-in",), "badge", True),
        (("built-in",), "lab.ideas:best", False),
        (("fairfal",), "badge", False),
        (("fairfal",), "random", True),
        (("lab.ideas:best",), "lab.ideas:best", True),
        (("lab.ideas:best",), "lab.ideas:worst", False),
        (("lab.*:*",), "lab.ideas:worst", True),
        (("lab.*:*",), "os:system", False),
        (("built-in",), 7, False),
    ],
)
def test_which_strategies_may_run(allowed, name, admitted):
    own = Policy(strategies=allowed)
    if admitted:
        own.admit_strategy({"query.strategy": name})
    else:
        with pytest.raises(RefusalError, match="the site's policy, `strategies`"):
            own.admit_strategy({"query.strategy": name})


def test_the_strategy_of_a_run_that_names_none_is_checked_too():
    with pytest.raises(RefusalError, match="'fairfal'"):
        Policy(strategies=("badge",)).admit_strategy({})


@pytest.mark.parametrize("name", ["os:system", "badge", "entropy"])
def test_a_request_cannot_name_another_strategy_than_the_runs(name):
    with pytest.raises(RefusalError, match="allowed: random, fairfal"):
        OWN_HOST.admit_request(select(strategy=name), config())


@pytest.mark.parametrize("name", ["random", "fairfal"])
def test_a_request_names_the_runs_strategy_or_the_first_cycles(name):
    OWN_HOST.admit_request(select(strategy=name), config())


# Places


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("data_dir", "data-roots"),
        ("model__weights", "weights-roots"),
        ("state_dir", "state-roots"),
    ],
)
def test_places_lie_below_the_roots(tmp_path, key, rule):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "way-out").symlink_to("/etc")
    own = Policy(**{rule.replace("-", "_"): (str(tmp_path / "in"),)})
    for inside in ("in", "in/x", "in/x/../y"):
        own.admit_config(config(**{key: str(tmp_path / inside)}), "")
    for outside in ("", "inside", "in/../out", "in/way-out/x"):
        place = str(tmp_path / outside)
        with pytest.raises(RefusalError, match=f"`{rule}`") as error:
            own.admit_config(config(**{key: place}), "")
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(RefusalError, match=f"`{rule}`"):
        Policy().admit_config(config(**{key: str(tmp_path / "in")}), "")


def test_a_run_that_names_no_place_needs_no_root():
    Policy().admit_config(config(), "")


def test_a_node_with_images_of_its_own_does_not_look_at_the_runs():
    Policy().admit_config(config(data_dir="/etc"), "/images")


# Cycles


@pytest.fixture
def ledger(tmp_path):
    """Return a ledger that knows the cycles 1, 2 and 4."""
    book = Ledger(tmp_path / "ledger.sqlite", "f")
    for cycle in (1, 2, 4):
        book.record_selection(cycle, "random", book.answered())
    return book


@pytest.mark.parametrize("request_", [select(7), train(7), train(1, 11)])
def test_no_request_is_beyond_the_run_it_belongs_to(request_):
    with pytest.raises(RefusalError, match="allowed: 1 to"):
        OWN_HOST.admit_request(request_, config())


@pytest.mark.parametrize(
    ("cycle", "most", "admitted"),
    [
        (5, 0, True),
        (4, 0, True),
        (6, 0, False),
        (6, 1, True),
        (7, 1, False),
        (99, None, True),
        (2, 0, True),
        (3, None, False),
    ],
)
def test_cycles_follow_each_other(ledger, cycle, most, admitted):
    own = Policy(missed_cycles=most)
    if admitted:
        own.admit_cycle(select(cycle), ledger)
    else:
        with pytest.raises(RefusalError, match="cycle"):
            own.admit_cycle(select(cycle), ledger)


@pytest.mark.parametrize("kind", [ImbalanceRequest, TrainRequest])
def test_no_request_closes_a_cycle_far_ahead(ledger, kind):
    far = (
        train(7)
        if kind is TrainRequest
        else ImbalanceRequest(campaign="c", cycle=7, weights={})
    )
    with pytest.raises(RefusalError, match="`missed-cycles`"):
        Policy().admit_cycle(far, ledger)
    Policy().admit_cycle(train(3), ledger)  # trained again, with the labels of then


# Labels


@pytest.fixture
def book(tmp_path):
    return SiteBook(tmp_path / "home" / "site.sqlite", 0)


def test_labels_of_a_cycle(book):
    own = Policy(labels_per_cycle=5)
    own.admit_labels(select(), 5, book)
    with pytest.raises(RefusalError, match="`labels-per-cycle`"):
        own.admit_labels(select(), 6, book)


def test_labels_in_all_outlive_a_campaign_and_a_repetition_is_free(book):
    own = Policy(labels=10)
    for _ in range(3):
        own.admit_labels(select(1), 5, book)
    own.admit_labels(select(2), 5, book)
    other = SelectRequest(campaign="another", cycle=1, strategy="random")
    with pytest.raises(RefusalError, match="`labels`"):
        own.admit_labels(other, 1, book)
    own.admit_labels(other, 0, book)
    own.admit_labels(other, 10, SiteBook(book.path, client=1))


# What leaves


def test_counts_of_test_images_leave_only_where_the_site_says_so():
    request = EvaluateRequest(campaign="c", weights={})
    with pytest.raises(RefusalError, match="`evaluation`"):
        Policy().admit_request(request, config())
    Policy(evaluation=True).admit_request(request, config())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_weakest_mechanism(mechanism):
    own, run = Policy(privacy=("local", "client-fixed")), config()
    clients = 100 if mechanism.endswith("adaptive") else 5  # enough for its noise
    run = config(privacy__mechanism=mechanism, num_clients=clients)
    if mechanism in ("local", "client-fixed"):
        own.admit_config(run, "")
    else:
        with pytest.raises(RefusalError, match="`privacy`"):
            own.admit_config(run, "")


@pytest.mark.parametrize(
    ("keys", "admitted"),
    [
        ({"privacy__epsilon": 1.0}, True),
        ({"privacy__epsilon": 1.1}, False),
        ({"privacy__sensitivity": 2.0}, True),
        ({"privacy__sensitivity": 1.9}, False),
        ({"privacy__sensitivity": 5.9, "privacy__clipping_norm": 3.0}, False),
    ],
)
def test_the_privacy_of_a_local_release(keys, admitted):
    run = config(privacy__mechanism="local", **keys)
    own = Policy(epsilon=1.0)
    if admitted:
        own.admit_config(run, "")
    else:
        with pytest.raises(RefusalError, match="`epsilon`"):
            own.admit_config(run, "")


def test_in_a_simulation_nothing_is_forbidden(ledger, book):
    run = config(data_dir="/data", state_dir="/state", privacy__mechanism="local")
    OWN_HOST.admit_strategy({"query.strategy": "examples.my_strategy:f"})
    OWN_HOST.admit_config(run, "")
    OWN_HOST.admit_request(EvaluateRequest(campaign="c", weights={}), run)
    OWN_HOST.admit_labels(select(), 10**6, book)
    assert not book.path.exists()
    assert policy_module.OWN_HOST.errors == "full"
