"""`fairfal run`: its config, its way to Flower's runtime, and what it answers."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
import typer
from dummy import PROJECT, write_app
from summaries import a_summary
from typer.testing import CliRunner

from fairfal_flwr import __version__
from fairfal_flwr.command import cli, launch
from fairfal_flwr.command.run_config import merge_run_config
from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.lock import hold, release
from fairfal_flwr.runs.rows import CycleRow, entry_of

CYCLE = CycleRow(1, 9, 0.5, 0.5, 0.5, 0.5, (0.5,), None, None, 1.0, 2.0)
SUMMARY = a_summary(finished=True, cycles=(CYCLE,))


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))  # which the command extends
    return write_app(tmp_path / "dummy")


@pytest.fixture
def no_processes(monkeypatch):
    """Fail when anything is started."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def fairfal(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


# The run config


def test_without_overrides_the_run_config_is_the_apps_own(app):
    assert merge_run_config(app) == {
        "seed": 0,
        "num-clients": 2,
        "output-dir": "",
        "campaign.num-cycles": 1,
        "campaign.resume": "",
        "federation.round-timeout": 60.0,
    }


def test_files_and_pairs_mix_and_the_later_wins(app, tmp_path):
    preset = tmp_path / "preset.toml"
    preset.write_text("seed = 5\nnum-clients = 9\n[federation]\nround-timeout = 1.5\n")
    merged = merge_run_config(
        app, ["seed=1 output-dir='a b'", str(preset), "num-clients=4 seed=7"]
    )
    assert merged == {
        "seed": 7,
        "num-clients": 4,
        "output-dir": "a b",
        "campaign.num-cycles": 1,
        "campaign.resume": "",
        "federation.round-timeout": 1.5,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "Cannot read the run config `seed`"),
        ("query.strategy random", "text with blanks in quotes"),
        ("missing.toml", "missing.toml: No such file"),
        ('query.strategy="random" seed 1', ": `seed` is no pair"),
        ("seed=1 num-clients", ": `num-clients` is no pair"),
        ("data.name='digits'x", ": `x` is no pair"),
        ("= seed=1", ": `=` is no pair"),
    ],
)
def test_an_unreadable_override_is_named(app, override, message):
    with pytest.raises(UserError, match=message):
        merge_run_config(app, [override])


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("output-dir=here", "here"),
        ("output-dir=2024", "2024"),
        ("output-dir='a b'", "a b"),
        ("output-dir=True", "True"),
        ("seed=7", 7),
        ("seed=True", True),
        ("seed=false", False),
        ("seed=seven", "seven"),  # which the config refuses
        ("federation.round-timeout=1e3", 1000.0),
        ("other.key=word", "word"),
    ],
)
def test_a_word_is_text_where_text_is_meant(app, pair, value):
    merged = merge_run_config(app, [pair])
    found = merged[pair.partition("=")[0]]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("content", ["seed = ", "seed = [1]"])
def test_an_unreadable_file_is_named(app, tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"bad\.toml"):
        merge_run_config(app, [str(file)])


def test_a_folder_without_an_app_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        merge_run_config(tmp_path)


# The command line


def test_the_version_is_the_packages():
    assert fairfal("--version").output.strip() == f"fairfal {__version__}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "`seed` is -1; allowed: integer >= 0"),
        ("sede=1", "did you mean `seed`?"),
        ("seed", "Cannot read the run config"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(
    app, no_processes, override, message
):
    result = fairfal("run", app, "-c", override)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fairfal: ")
    assert message in result.stderr


def test_a_folder_in_the_run_config_is_seen_from_the_callers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli._absolute("results") == str(tmp_path / "results")
    assert cli._absolute("/results") == "/results"
    assert cli._absolute("") == ""


@pytest.mark.parametrize(
    ("gpus", "actors", "share"), [(0, 2, 0.0), (1, 3, 0.3333), (1, 2, 0.5), (4, 2, 1.0)]
)
def test_the_actors_share_the_gpus(monkeypatch, gpus, actors, share):
    monkeypatch.setattr(cli, "_may_have_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert cli._gpu_share("auto", actors) == share
    assert cli._gpu_share("cpu", actors) == 0.0


# The run


def test_a_bundle_holds_the_apps_files(app):
    names = launch.names_in(launch.build_bundle(app))
    assert {"pyproject.toml", "dummy_server.py", "dummy_client.py"} <= names


def test_an_app_that_flower_refuses_is_a_users_mistake(app, no_processes):
    (app / "dummy_client.py").unlink()
    result = fairfal("run", app)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fairfal: Flower does not take the app {app}: ")
    assert "dummy_client" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_strategy_that_would_stay_behind_is_a_users_mistake(app, no_processes):
    """The bundle takes what the app names, and the clients know nothing else."""
    (app / "at_home.py").write_text("def choose(context, budget): ...\n")
    project = PROJECT["tool"]["flwr"]["app"] | {"fab-include": ["/dummy_*.py"]}
    whole = PROJECT | {"tool": {"flwr": {"app": project}}}
    (app / "pyproject.toml").write_text(tomli_w.dumps(whole))
    result = fairfal("run", app, "-c", 'query.strategy="at_home:choose"')
    assert result.exit_code == 2
    assert "at_home.py is not in the app's bundle" in result.stderr


def test_the_users_settings_win_and_what_is_private_does_not_yield(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_HOME", "/elsewhere")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    environment = launch._environment(tmp_path, verbose=False)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "5"
    assert environment["MALLOC_TOP_PAD_"] == str(2**26)
    assert "RAY_ADDRESS" not in environment
    assert environment["RAY_AUTH_MODE"] == "token"
    again = launch._environment(tmp_path, verbose=False)
    tokens = {environment["RAY_AUTH_TOKEN"], again["RAY_AUTH_TOKEN"], "0" * 64}
    assert len(tokens) == 3


def test_a_relative_home_for_results_is_the_callers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRFAL_HOME", "mine")
    environment = launch._environment(Path("/tmp/x"), verbose=False)
    assert environment["FAIRFAL_HOME"] == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("status", "reason", "ending"),
    [
        (0, None, None),
        (1, "an unlucky seed", "an unlucky seed"),
        (137, None, "its process was killed by signal 9"),
        (3, None, "its process ended with status 3"),
    ],
)
def test_an_ending_says_why(status, reason, ending):
    assert launch._ending(status, reason) == ending


@pytest.mark.parametrize(
    "line",
    [
        "ERROR :     The simulation raised an exception",
        "Traceback (most recent call last):",
        "(ClientAppActor pid=7) ValueError: no labels",
        "WARNING :   a client did not answer",
        "Results: /home/a/runs/1",
        "unfinished(ClientAppActor pid=7) WARNING :   Manually terminating",
        "",
    ],
)
def test_only_known_noise_is_hidden(line):
    assert not launch.is_noise(line)


# Stopping and going on: the last line


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "out put" / "20260101-000000-digits-1a2b3c4d"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("seed = 7\n[campaign]\nnum-cycles = 3\n")
    (folder / "checkpoint.safetensors").write_bytes(b"")
    return folder


def last_words(asked, status, capsys):
    with pytest.raises(typer.Exit) as leaving:
        cli._leave(asked, "stopped", status)
    assert leaving.value.exit_code == status
    return capsys.readouterr().err.splitlines()


def test_the_last_line_goes_on(results, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/.venv/bin/fairfal", "run", "-c", "seed=7"])
    asked = cli._Asked(Path(), ["seed=7"], None, 2, True, results)
    *_, line = last_words(asked, 130, capsys)
    assert line == (
        f"/x/.venv/bin/fairfal run --resume '{results}' --actors 2 --verbose"
    )
    asked = cli._Asked(Path("my app"), [], None, None, False, results)
    *_, line = last_words(asked, 1, capsys)
    assert line == f"/x/.venv/bin/fairfal run 'my app' --resume '{results}'"


def test_before_the_first_checkpoint_the_last_line_starts_again(
    results, capsys, monkeypatch
):
    words = ["/x/fairfal", "run", "my app", "-c", 'query.strategy="random"']
    monkeypatch.setattr("sys.argv", words)
    (results / "checkpoint.safetensors").unlink()
    for known in (results, None):
        asked = cli._Asked(Path("my app"), [], None, None, False, known)
        first, last = last_words(asked, 143, capsys)
        assert "before the first checkpoint" in first
        assert last == "/x/fairfal run 'my app' -c 'query.strategy=\"random\"'"
        assert last_words(asked, 1, capsys) == ["fairfal: stopped"]


def test_the_program_is_called_as_the_shell_finds_it(tmp_path, monkeypatch):
    program = tmp_path / "fairfal"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli._program() == "fairfal"
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli._program() == str(program)


def test_a_signal_unwinds_once_asked_for_and_not_where_it_is_ignored(capfd):
    """Under `nohup` a closed terminal stops nothing."""
    interrupt = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli._stopped_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(cli._Stopped) as stopped:
                signal.raise_signal(signal.SIGTERM)
        assert stopped.value.number == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGINT) is interrupt
    assert capfd.readouterr().err == "fairfal: stopping ...\n"


# Resuming


@pytest.fixture
def started(monkeypatch):
    """Record the run config of what would be started."""
    configs = []

    def run_app(_bundle, run_config, **_):
        configs.append(run_config)

    monkeypatch.setattr(launch, "run_app", run_app)
    return configs


@pytest.mark.parametrize("by_name", [True, False])
def test_a_resumed_run_has_its_own_config_and_the_overrides(
    app, results, started, by_name, monkeypatch
):
    monkeypatch.chdir(results.parent)
    name = results.name
    where = [f'output-dir="{results.parent}"'] if by_name else []
    if by_name:
        monkeypatch.chdir(app)
    words = [w for text in [*where, "campaign.num-cycles=4"] for w in ("-c", text)]
    result = fairfal("run", app, "--resume", name, *words)
    assert result.exit_code == 0, result.output
    (config,) = started
    assert config["campaign.resume"] == str(results)
    assert (config["seed"], config["campaign.num-cycles"]) == (7, 4)
    assert config["num-clients"] == 2  # the app's own


def test_a_run_that_does_not_exist_is_named(app, started, tmp_path):
    result = fairfal("run", app, "--resume", "nobody", "-c", f'output-dir="{tmp_path}"')
    assert result.exit_code == 2
    assert "`--resume` is nobody" in result.stderr
    assert str(tmp_path) in result.stderr
    assert not started


def refusal(app, results):
    result = fairfal("run", app, "--resume", results)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_run_without_a_checkpoint_is_refused(app, results, started):
    (results / "checkpoint.safetensors").unlink()
    assert "before its first checkpoint" in refusal(app, results)
    assert not started


def test_a_run_without_its_config_is_refused(app, results, started):
    (results / "config.toml").unlink()
    (results / "events.jsonl").touch()
    assert "no config.toml" in refusal(app, results)
    assert not started


def test_a_run_that_goes_on_is_refused(app, results, started):
    held = hold(results)
    assert "Another process is at work on the run" in refusal(app, results)
    assert not started
    release(held)
    assert fairfal("run", app, "--resume", results).exit_code == 0


def test_a_finished_run_is_refused_unless_more_cycles_are_asked_for(
    app, results, started
):
    entry = entry_of(SUMMARY)
    assert (entry["finished"], len(entry["cycles"])) == (True, 1)
    (results / "summary.json").write_text(json.dumps(entry))
    config = results / "config.toml"
    config.write_text(config.read_text().replace("= 3", "= 1"))
    assert "-c campaign.num-cycles=2" in refusal(app, results)
    more = fairfal("run", app, "--resume", results, "-c", "campaign.num-cycles=2")
    assert more.exit_code == 0
    assert len(started) == 1
