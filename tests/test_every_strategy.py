"""Every registered strategy in a campaign, its options as keys, and one's own."""

import shutil
import sys
from pathlib import Path

import pytest
from grid import InProcessGrid, run_campaign, same_weights
from superlink import COMPLETED, local_superlink, run_app

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.query.options import check_options
from fairfal_flwr.query.registry import STRATEGIES
from fairfal_flwr.server import recorder
from fairfal_flwr.server.campaign import Campaign

ROOT = Path(__file__).parents[1]
TOY = {
    "num-clients": 3,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 1,
    "train.epochs": 2,
    "local.max-epochs": 1,
    "distill.max-epochs": 1,
    "gcnal.steps": 5,
    "query.max-pool": 40,
}
NEEDS_DROPOUT = {"bald"}

# What `make check` runs: between them they use every model and every memory.
QUICK = {"chase", "finetuning"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "draw_learning_curve", lambda *a: a[-1].touch())
    return TOY | {
        "output-dir": str(tmp_path / "runs"),
        "state-dir": str(tmp_path / "state"),
    }


def selections(campaign):
    config, name = campaign.config, campaign.recorder.name
    return [
        [
            find_participant(config, client, name).ledger.selection(cycle).tolist()
            for cycle in range(1, config.campaign.num_cycles + 1)
        ]
        for client in range(config.num_clients)
    ]


def deployed(message, context):
    """Answer as a deployed client does: a new process for every message."""
    find_participant.cache_clear()
    return app(message, context)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in sorted(STRATEGIES.keys() - NEEDS_DROPOUT)
    ],
)
def test_a_run_repeats_itself_bit_by_bit_also_without_memory(toy, tmp_path, name):
    """All that a query needs of the past is on disk."""
    chosen = RunConfig.keep_taken(toy | {"query.strategy": name})
    first, _ = run_campaign(chosen)
    asked = selections(first)
    assert all(len(set(map(len, cycles))) == 1 for cycles in asked)
    again = chosen | {"state-dir": str(tmp_path / "other")}
    second = Campaign(RunConfig.from_flat(again), InProcessGrid(again, 3, deployed))
    second.run()
    assert selections(second) == asked
    assert same_weights(first, second)


@pytest.mark.parametrize(
    "model", ["adaptive", "distilled", "finetuned", "local", "local-last"]
)
@pytest.mark.slow
def test_any_model_can_be_the_one_that_queries(toy, model):
    chosen = RunConfig.keep_taken(
        toy | {"query.strategy": "margin", "query.model": model}
    )
    campaign, grid = run_campaign(chosen)
    assert campaign.state.num_labels > 0
    kinds = {message.metadata.message_type for message in grid.requests}
    assert ("query.imbalance" in kinds) == (model == "adaptive")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_option_is_a_key_with_the_functions_default(name):
    """The section of a strategy has its name; `model` is `query.model`."""
    options = {
        option.name.replace("_", "-"): option.default
        for option in STRATEGIES[name].options.values()
        if option.name != "model"
    }
    prefix = f"{name}."
    keys = {
        key.removeprefix(prefix): default
        for key, default in RunConfig().to_flat().items()
        if key.startswith(prefix)
    }
    assert keys == options


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_words_that_a_key_takes_are_those_of_the_option(name):
    for option, words in (
        (option.name, option.words) for option in STRATEGIES[name].options.values()
    ):
        key = "query.model" if option == "model" else f"{name}.{option}"
        for word in words:
            RunConfig.from_flat({"query.strategy": name, key.replace("_", "-"): word})
        if words:
            with pytest.raises(UserError, match=f"allowed.*{words[0]}"):
                RunConfig.from_flat(
                    {"query.strategy": name, key.replace("_", "-"): "nonsense"}
                )


def test_options_reach_their_strategy():
    config = RunConfig.from_flat(
        {"query.strategy": "gcnal", "query.model": "local", "gcnal.weight-decay": 0.5}
    )
    options = config.strategy_options("gcnal")
    assert (options["model"], options["weight_decay"]) == ("local", 0.5)
    assert config.strategy_options("random") == {}
    check_options(STRATEGIES["gcnal"].options, options)


@pytest.mark.parametrize(
    ("strategy", "model", "line"),
    [
        ("ksas", "local", r"`query.model` is 'local'; .*'ksas': auto\."),
        ("random", "global", "`query.model` is 'global'; .*'random': auto"),
        ("fairfal", "distilled", "auto, adaptive, adaptive-reversed, global, local"),
    ],
)
def test_a_model_that_a_strategy_does_not_take_is_one_line(strategy, model, line):
    with pytest.raises(UserError, match=line) as error:
        RunConfig.from_flat({"query.strategy": strategy, "query.model": model})
    assert "\n" not in str(error.value)


def test_a_strategy_of_ones_own_runs_by_its_name(toy):
    own = "examples.my_strategy:rarest_first"
    campaign, grid = run_campaign(RunConfig.keep_taken(toy | {"query.strategy": own}))
    assert campaign.state.num_labels > 0
    assert campaign.recorder.folder.name.count(":") == 0
    queries = (campaign.recorder.folder / "queries.csv").read_text()
    assert queries.count(own) == 3
    sent = [m for m in grid.requests if m.metadata.message_type == "query.select"]
    assert ["arrays" in m.content for m in sent] == [False] * 3 + [True] * 3


def test_a_strategy_of_ones_own_takes_the_model_if_it_can(toy):
    own = {"query.strategy": "examples.my_strategy:rarest_first"}
    config = RunConfig.from_flat(own | {"query.model": "local"})
    assert config.strategy_options(config.query.strategy) == {"model": "local"}
    with pytest.raises(UserError, match=r"`query.model` is 'adaptive'; .*auto, global"):
        RunConfig.from_flat(own | {"query.model": "adaptive"})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no.such_module:f", "ModuleNotFoundError: No module named 'no'"),
        ("broken_ideas:f", "ZeroDivisionError"),
        ("good_ideas:missing", "has no attribute 'missing'"),
        ("good_ideas:number", "is not a callable"),
        ("good_ideas:no_budget", "too many positional arguments"),
        ("good_ideas:", "as a strategy"),
        (":f", "as a strategy"),
    ],
)
def test_a_function_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, name, line):
    (tmp_path / "good_ideas.py").write_text("number = 3\ndef no_budget(context): ...")
    (tmp_path / "broken_ideas.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"`query.strategy` is '{name}'.*{line}") as e:
        RunConfig.from_flat({"query.strategy": name})
    assert "\n" not in str(e.value)
    assert "in the app's folder or installed" in str(e.value)


def test_a_strategy_of_ones_own_that_fails_is_one_line(toy, tmp_path, monkeypatch):
    code = "def f(context, budget):\n    return context.no_such_thing"
    (tmp_path / "failing_ideas.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"AttributeError: .*no_such.* \(failing_ideas\.py, line 2\)"
    ):
        run_campaign(RunConfig.keep_taken(toy | {"query.strategy": "failing_ideas:f"}))


def test_one_may_say_what_a_strategy_of_ones_own_needs(tmp_path, monkeypatch):
    code = (
        "from fairfal_flwr.query.registry import strategy\n"
        "@strategy('declared', models=('local-last',), needs_imbalance=True)\n"
        "def f(context, budget): ..."
    )
    (tmp_path / "declared_ideas.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("fairfal_flwr.query.registry.STRATEGIES", dict(STRATEGIES))
    from fairfal_flwr.query.registry import resolve

    assert resolve("declared_ideas:f").requirements({}) == (("local-last",), True)
    assert resolve("declared").function is sys.modules["declared_ideas"].f


@pytest.mark.slow
def test_a_module_beside_the_client_app_travels_to_the_clients(tmp_path):
    """Under real Flower: what is in the app's folder is in the bundle."""
    app_folder = tmp_path / "app"
    app_folder.mkdir()
    for folder in ("fairfal_flwr", "examples"):
        shutil.copytree(ROOT / folder, app_folder / folder)
    for file in ("client_app.py", "server_app.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, app_folder)
    (app_folder / "README.md").write_text("An app of one's own.")
    shutil.copy(ROOT / "examples/my_strategy.py", app_folder / "examples/my_ideas.py")
    values = TOY | {
        "query.strategy": "examples.my_ideas:rarest_first",
        "output-dir": str(tmp_path / "runs"),
        "state-dir": str(tmp_path / "state"),
    }
    for key in ("local.max-epochs", "distill.max-epochs", "gcnal.steps"):
        del values[key]
    lines: list[str] = []
    with local_superlink() as link:
        record = run_app(link, app_folder, values, num_supernodes=3, echo=lines.append)
    assert record["status"] == COMPLETED, "\n".join(lines)
    (queries,) = (tmp_path / "runs").glob("*/queries.csv")
    assert queries.read_text().count("examples.my_ideas:rarest_first") == 3
