"""`fairfal run` and the SuperLink of its own."""

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from fairfal_flwr import __version__
from fairfal_flwr.command import cli, launch
from fairfal_flwr.errors import UserError

# Names that no folder on sys.path has, such as this project's own root.
SERVER = """
import time
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("seed is", context.run_config["seed"])
    if context.run_config["seed"] == 13:
        raise ValueError("an unlucky seed")
    deadline = time.monotonic() + context.run_config["federation.round-timeout"]
    while context.run_config["seed"] == 60 and time.monotonic() < deadline:
        time.sleep(0.1)
"""

CLIENT = """
from flwr.clientapp import ClientApp

app = ClientApp()
"""

PROJECT = {
    "project": {
        "name": "dummy",
        "version": "0.1.0",
        "description": "An app that only its tests run.",
        "license": {"text": "Apache-2.0"},
        "dependencies": ["flwr[simulation]>=1.41.0"],
    },
    "tool": {
        "flwr": {
            "app": {
                "publisher": "fairfal",
                "components": {
                    "serverapp": "dummy_server:app",
                    "clientapp": "dummy_client:app",
                },
                "config": {
                    "seed": 0,
                    "num-clients": 2,
                    "output-dir": "",
                    "federation": {"round-timeout": 60.0},
                },
            }
        }
    },
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "dummy"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(tomli_w.dumps(PROJECT))
    (folder / "dummy_server.py").write_text(SERVER)
    (folder / "dummy_client.py").write_text(CLIENT)
    return folder


@pytest.fixture
def no_processes(monkeypatch):
    """Fail when anything is started."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def fairfal(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def processes_with(marker: str) -> list[int]:
    return [
        int(file.parent.name)
        for file in Path("/proc").glob("[0-9]*/environ")
        if marker.encode() in launch._read_bytes(file)
    ]


# The run config


def test_without_overrides_the_run_config_is_the_apps_own(app):
    assert launch.merge_run_config(app) == {
        "seed": 0,
        "num-clients": 2,
        "output-dir": "",
        "federation.round-timeout": 60.0,
    }


def test_files_and_pairs_mix_and_the_later_wins(app, tmp_path):
    preset = tmp_path / "preset.toml"
    preset.write_text("seed = 5\nnum-clients = 9\n[federation]\nround-timeout = 1.5\n")
    merged = launch.merge_run_config(
        app, ["seed=1 output-dir='a b'", str(preset), "num-clients=4 seed=7"]
    )
    assert merged == {
        "seed": 7,
        "num-clients": 4,
        "output-dir": "a b",
        "federation.round-timeout": 1.5,
    }


def test_a_merged_run_config_reads_back_as_it_was(app, tmp_path):
    values = {"seed": 3, "train.lr": 1e-05, "data.name": 'a "b"', "a.b.c": True}
    file = launch._write_run_config(tmp_path, values)
    assert launch.merge_run_config(app, [str(file)]).items() >= values.items()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "Cannot read the run config `seed`"),
        ("query.strategy=random", "text in quotes"),
        ("missing.toml", "missing.toml: No such file"),
    ],
)
def test_an_unreadable_override_is_named(app, override, message):
    with pytest.raises(UserError, match=message):
        launch.merge_run_config(app, [override])


@pytest.mark.parametrize("content", ["seed = ", "seed = [1]"])
def test_an_unreadable_file_is_named(app, tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"bad\.toml"):
        launch.merge_run_config(app, [str(file)])


def test_a_folder_without_an_app_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        launch.merge_run_config(tmp_path)


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
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert cli._gpu_share("auto", actors) == share
    assert cli._gpu_share("cpu", actors) == 0.0


# The SuperLink


def test_a_free_port_can_be_bound():
    port = launch.free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_the_users_settings_win_and_the_home_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_HOME", "/elsewhere")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    environment = launch._environment(tmp_path, verbose=False)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "5"
    assert environment["MALLOC_TOP_PAD_"] == str(2**26)


def test_a_relative_home_for_results_is_the_callers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRFAL_HOME", "mine")
    environment = launch._environment(Path("/tmp/x"), verbose=False)
    assert environment["FAIRFAL_HOME"] == str(tmp_path / "mine")


@pytest.mark.parametrize(
    "line",
    [
        "ERROR :     Simulation raised an exception",
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


@pytest.mark.slow
def test_a_superlink_that_does_not_start_is_reported_and_leaves_nothing(monkeypatch):
    homes = set(Path("/tmp").glob("fairfal-*"))
    monkeypatch.setattr(launch, "free_port", lambda: 99999)
    with (
        pytest.raises(UserError, match="did not start"),
        launch.local_superlink(),
    ):
        raise AssertionError("it is said to be ready")
    assert set(Path("/tmp").glob("fairfal-*")) == homes


@pytest.mark.slow
def test_a_run_tells_how_it_really_ended_and_leaves_nothing(app):
    lines: list[str] = []
    with launch.local_superlink() as link:
        completed = launch.run_app(
            link, app, {"seed": 4}, num_supernodes=2, echo=lines.append
        )
        failed = launch.run_app(
            link, app, {"seed": 13}, num_supernodes=2, echo=lines.append
        )
    assert completed["status"] == launch.COMPLETED
    assert failed["status"] == "finished:failed"
    assert "an unlucky seed" in failed["status-details"]
    assert [line for line in lines if line.startswith("seed")] == [
        "seed is 4",
        "seed is 13",
    ]
    assert any("ValueError: an unlucky seed" in line for line in lines)
    assert not link.home.exists()
    assert processes_with(f"FLWR_HOME={link.home}") == []


@pytest.mark.slow
def test_an_app_that_flower_refuses_is_a_users_mistake(app):
    (app / "dummy_client.py").unlink()
    lines: list[str] = []
    with launch.local_superlink() as link, pytest.raises(UserError, match="not start"):
        launch.run_app(link, app, num_supernodes=2, echo=lines.append)
    assert any("dummy_client" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_stops_the_run_and_leaves_nothing(app, number, status):
    marker = f"TEST_LAUNCH={os.getpid()}-{number}"
    name, _, value = marker.partition("=")
    process = subprocess.Popen(
        [Path(sys.executable).with_name("fairfal"), "run", app, "-c", "seed=60"],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in its background with SIGINT ignored.
        preexec_fn=functools.partial(signal.signal, number, signal.SIG_DFL),
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        assert next(process.stdout) == "seed is 60\n"
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait() == status
    watchdog.cancel()
    assert time.monotonic() - started < 45
    assert processes_with(marker) == []
