"""Real runs of `fairfal run`: who can use them, and what is left when they end."""

import functools
import http.client
import itertools
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from dummy import write_app
from hosts import (
    catches,
    environment_of,
    listening,
    name_of,
    processes_with,
    wait_until,
)

from fairfal_flwr.command import launch
from fairfal_flwr.command.guard import members

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

FAIRFAL = Path(sys.executable).with_name("fairfal")
PATH = os.pathsep.join([str(FAIRFAL.parent), os.environ.get("PATH", os.defpath)])
RESUMABLE, NOT_YET = 61, 60  # seeds: the dummy leaves a checkpoint, or none
START = 400.0  # until Ray runs
SECONDS = 30.0  # generous: machines of CI share their cores
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
# One method of each of Ray's services; `PushTask` runs what it is given.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
)


class Running:
    """A `fairfal run` that goes on."""

    def __init__(self, process: "subprocess.Popen[str]", variable: str) -> None:
        self.process, self.variable = process, variable
        self.sessions: set[int] = set()

    def pids(self) -> list[int]:
        """Return all that it started, also Ray's workers, which hide their origin."""
        found = set(processes_with(self.variable))
        for pid in found:
            with suppress(ProcessLookupError):
                self.sessions.add(os.getsid(pid))
        return sorted(found.union(*map(members, self.sessions)))

    def pid_of(self, name: str) -> int | None:
        pids = [pid for pid in self.pids() if name in name_of(pid)]
        return pids[0] if pids else None

    def wait_for_results(self) -> str:
        lines = iter(self.process.stdout)
        return next(x for x in lines if x.startswith("results: ")).split(" ", 1)[1]

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end; return the exit status and the lines of the errors."""
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors.splitlines()


@contextmanager
def running(app: Path, seed: int) -> Iterator[Running]:
    """Start one; kill it if the test leaves it behind."""
    name, value = "TEST_STOPS", f"{os.getpid()}-{time.monotonic_ns()}"
    overrides = f"seed={seed} federation.round-timeout=900.0 "
    overrides += f"output-dir='{app.parent}/out put'"
    process = subprocess.Popen(
        [FAIRFAL, "run", app, "-c", overrides],
        env={**os.environ, name: value, "PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in its background with SIGINT ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    watchdog = threading.Timer(2 * START, process.kill)
    watchdog.start()
    try:
        yield Running(process, f"{name}={value}")
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture
def app(tmp_path):
    return write_app(tmp_path / "dummy")


def test_a_run_tells_how_it_really_ended_and_leaves_nothing(app, monkeypatch):
    monkeypatch.setenv("TEST_STOPS", f"{os.getpid()}-direct")
    homes = []

    def make_home(**arguments):
        homes.append(Path(tempfile.mkdtemp(**arguments)))
        return str(homes[-1])

    monkeypatch.setattr(launch, "tempfile", SimpleNamespace(mkdtemp=make_home))
    bundle, lines = launch.build_bundle(app), []
    endings = [
        launch.run_app(bundle, {"seed": seed}, num_supernodes=2, echo=lines.append)
        for seed in (4, 13)
    ]
    assert endings == [None, "an unlucky seed"]
    assert [x for x in lines if x.startswith("seed")] == ["seed is 4", "seed is 13"]
    assert any("ValueError: an unlucky seed" in line for line in lines)
    assert len(homes) == 2
    assert not any(home.exists() for home in homes)
    assert set(processes_with(f"TEST_STOPS={os.getpid()}-direct")) <= {os.getpid()}


@pytest.mark.parametrize(
    ("number", "status", "seed"),
    [
        (signal.SIGINT, 130, RESUMABLE),
        (signal.SIGTERM, 143, NOT_YET),
        (signal.SIGHUP, 129, RESUMABLE),
    ],
)
def test_a_signal_stops_the_run_and_the_last_line_goes_on(app, number, status, seed):
    with running(app, seed) as run:
        folder = run.wait_for_results().strip()
        started = time.monotonic()
        run.process.send_signal(number)
        assert run.process.stderr.readline() == "fairfal: stopping ...\n"
        assert time.monotonic() - started < 1
        code, errors = run.end()
        assert code == status
        assert time.monotonic() - started < SECONDS
        if seed == RESUMABLE:
            assert errors[-1] == f"fairfal run {app} --resume '{folder}'"
        else:
            assert errors[-1].startswith(f"fairfal run {app} -c 'seed={seed} ")
        assert run.pids() == []


def test_a_second_ctrl_c_changes_nothing(app):
    with running(app, RESUMABLE) as run:
        folder = run.wait_for_results().strip()
        run.process.send_signal(signal.SIGINT)
        run.process.stderr.readline()
        run.process.send_signal(signal.SIGINT)
        code, errors = run.end()
        assert code == 130
        assert errors[-1] == f"fairfal run {app} --resume '{folder}'"
        wait_until(lambda: run.pids() == [], SECONDS)


@pytest.mark.parametrize("moment", ["importing", "guard", "gcs_server"])
def test_a_signal_stops_a_run_that_only_begins(app, moment):
    with running(app, RESUMABLE) as run:
        pid = run.process.pid
        if moment == "importing":
            wait_until(lambda: catches(pid, signal.SIGTERM), SECONDS)
        else:
            wait_until(lambda: run.pid_of(moment), START)
        run.process.terminate()
        code, errors = run.end()
        assert code == 143
        assert errors[-1].startswith("fairfal run ")
        wait_until(lambda: run.pids() == [], SECONDS)


def test_kill_9_takes_everything_along(app):
    with running(app, NOT_YET) as run:
        run.wait_for_results()
        wait_until(lambda: run.pid_of("ray::ClientAppActor"), START)
        home = Path(environment_of(run.pid_of("guard.py"))["FLWR_HOME"])
        ports = listening(run.pids())
        assert ports
        assert home.is_dir()
        run.process.kill()
        wait_until(lambda: run.pids() == [], SECONDS)
        assert not ports.keys() & listening([*map(int, all_pids())]).keys()
        assert not home.exists()


def all_pids() -> list[str]:
    return [folder.name for folder in Path("/proc").glob("[0-9]*")]


def test_a_dead_serverapp_is_noticed_in_seconds(app):
    with running(app, RESUMABLE) as run:
        folder = run.wait_for_results().strip()
        started = time.monotonic()
        (pid,) = [p for p in run.pids() if is_the_serverapp(p)]
        os.kill(pid, signal.SIGKILL)
        code, errors = run.end()
        assert time.monotonic() - started < SECONDS
        assert code == 1
        assert "killed by signal 9" in errors[-2]
        assert errors[-1] == f"fairfal run {app} --resume '{folder}'"
        assert run.pids() == []


def is_the_serverapp(pid: int) -> bool:
    name = name_of(pid)
    return "simulate.py" in name and "guard.py" not in name


# Who can use it


def test_nobody_else_can_use_what_a_run_listens_on(app):
    """Who does not know the secret is turned away, and no other user can read it.

    Ray's ports run code for whoever they listen to. Every one of them is asked by each
    of Ray's services and by HTTP: none may do anything.
    """
    with running(app, NOT_YET) as run:
        run.wait_for_results()
        wait_until(lambda: run.pid_of("ray::ClientAppActor"), START)
        wait_until(lambda: run.pid_of("ray::RuntimeEnvAgent"), START)
        ports = listening(run.pids())
        assert len(ports) > 3
        assert set(ports.values()) <= LOOPBACK
        answers = {port: answers_of(port) for port in ports}
        assert all("OK" not in codes for codes in answers.values())
        assert all({"UNAUTHENTICATED", 401} & codes for codes in answers.values())
        pid = run.pid_of("gcs_server")
        values = environment_of(pid)
        # With it the question is answered, so it is the secret that was missing.
        right = ("authorization", f"Bearer {values['RAY_AUTH_TOKEN']}")
        assert "OK" in {ask(port, METHODS[0], right) for port in ports}
        assert stat.S_IMODE(Path(values["FLWR_HOME"]).stat().st_mode) == 0o700
        assert not others_can_read(Path(f"/proc/{pid}/environ"))


def answers_of(port: int) -> set[str | int]:
    wrong = ("authorization", f"Bearer {'ab' * 32}")
    calls = itertools.product(METHODS, ([], [wrong]))
    return {*(ask(port, method, *secret) for method, secret in calls), post(port)}


def ask(port: int, method: str, *metadata: tuple[str, str]) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def post(port: int) -> int:
    url = f"http://127.0.0.1:{port}/get_or_create_runtime_env"
    try:
        with urllib.request.urlopen(url, data=b"x", timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):  # it speaks something else
        return 0


def others_can_read(file: Path) -> bool:
    """Ask as another user, which only root can."""
    if os.geteuid() != 0:
        return False
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    done = subprocess.run(["cat", file], capture_output=True, **nobody)
    return done.returncode == 0
