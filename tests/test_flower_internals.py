"""Where this project leans on Flower's insides: why, and whether they are still there.

Each test stands for one place outside Flower's documented interface, or for one flaw
that is worked around. When one fails, Flower has moved: adapt the place that it names,
or drop the workaround if the reason is gone.
"""

import importlib
import inspect
import logging
import random
import re
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import flwr
import flwr.app
import flwr.serverapp
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.cli.install import install_from_fab
from flwr.cli.utils import AppPathDepthError
from flwr.common import config as flower_config
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
)
from flwr.serverapp.strategy.dp_adaptive_clipping import DifferentialPrivacyAdaptiveBase
from flwr.supercore import log
from flwr.supercore.differential_privacy import (
    KEY_CLIPPING_NORM,
    KEY_NORM_BIT,
    compute_adaptive_clip_model_update,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fairfal_flwr.client import mods
from fairfal_flwr.command.run_config import merge_run_config
from fairfal_flwr.server.replies import NORM_BIT

FLOWER = Path(flwr.__file__).parent
ADAPTIVE = (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyClientSideAdaptiveClipping,
)
FIXED = (
    DifferentialPrivacyServerSideFixedClipping,
    DifferentialPrivacyClientSideFixedClipping,
)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def source(module: str) -> str:
    """Return a module's code without importing it, which may take seconds."""
    path = FLOWER.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path.read_text(encoding="utf-8")


def method_of_the_grid(name: str) -> str:
    """Return the code of a method of the Grid that a ServerApp gets."""
    (code,) = re.findall(
        rf"^    def {name}\(.*?(?=^    def |\Z)",
        source("flwr.superlink.grid.http_grid"),
        re.MULTILINE | re.DOTALL,
    )
    return code


def message() -> Message:
    arrays = ArrayRecord({"w": Array(np.zeros(1))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord()})
    return Message(content, dst_node_id=5, message_type="train")


def reply_to(request: Message, value: float, norm_bit: int) -> Message:
    request.metadata.__dict__["_message_id"] = "1"
    metrics = MetricRecord({"num-examples": 1, KEY_NORM_BIT: norm_bit})
    arrays = ArrayRecord({"w": Array(np.array([value]))})
    return Message(RecordDict({"arrays": arrays, "m": metrics}), reply_to=request)


def nodes(count: int) -> Grid:
    return SimpleNamespace(get_node_ids=lambda: list(range(count)))


# Differential privacy: fairfal_flwr/server/privacy.py


@pytest.mark.parametrize("wrapper", ADAPTIVE)
def test_adaptive_clipping_still_moves_by_the_share_that_was_clipped(
    wrapper, monkeypatch
):
    """`_TowardsQuantile` overrides `_geometric_update` since that share is wrong there.

    Of three updates two are longer than the norm, and Algorithm 1 of the paper wants
    the share of those that are not, a third.
    """
    shares = []
    monkeypatch.setattr(
        DifferentialPrivacyAdaptiveBase,
        "_geometric_update",
        lambda _self, clipped_fraction: shares.append(clipped_fraction),
    )
    strategy = wrapper(FedAvg(), 0.0, 3, 0.1, clipped_count_stddev=0.0)
    arrays = ArrayRecord({"w": Array(np.zeros(1))})
    strategy.configure_train(1, arrays, ConfigRecord(), nodes(3))
    updates = ((5.0, 1), (5.0, 1), (0.01, 0))
    strategy.aggregate_train(1, [reply_to(message(), *update) for update in updates])
    assert shares == [pytest.approx(2 / 3)]


def test_the_update_of_the_adaptive_norm_has_the_signature_that_is_overridden():
    """`_TowardsQuantile` overrides it by name in the base of both wrappers."""
    signature = inspect.signature(DifferentialPrivacyAdaptiveBase._geometric_update)
    assert list(signature.parameters) == ["self", "clipped_fraction"]
    for wrapper in ADAPTIVE:
        assert issubclass(wrapper, DifferentialPrivacyAdaptiveBase)
        assert "_geometric_update" not in vars(wrapper)


@pytest.mark.parametrize("wrapper", [*ADAPTIVE, *FIXED])
def test_a_wrapper_keeps_what_is_replaced_and_read(wrapper):
    """`renew` sets `strategy`, `expect_replies` the count; the report has the norm."""
    inner = FedAvg()
    strategy = (
        wrapper(inner, 0.5, 7, 0.25)
        if wrapper in ADAPTIVE
        else wrapper(inner, 0.5, 0.25, 7)
    )
    kept = vars(strategy)
    assert kept["strategy"] is inner
    assert (kept["num_sampled_clients"], kept["clipping_norm"]) == (7, 0.25)


@pytest.mark.parametrize("norm", [0.5, 500.0])
def test_the_clients_clip_as_flowers_mods_do(norm):
    """`client/mods.py` is in their place, so its bits are theirs."""
    draw = np.random.default_rng(0).standard_normal
    sent, trained = (
        [draw(shape).astype(np.float32) for shape in ((40, 30), (7,))] for _ in range(2)
    )
    update, is_longer = mods.clip(trained, sent, norm)
    theirs = list(trained)
    assert compute_adaptive_clip_model_update(theirs, sent, norm) == is_longer
    for old, change, their in zip(sent, update, theirs, strict=True):
        assert np.array_equal(old + change, their)
    assert (mods.NORM, mods.NORM_BIT) == (KEY_CLIPPING_NORM, KEY_NORM_BIT)


@pytest.mark.parametrize("wrapper", [ADAPTIVE[0], FIXED[0]])
def test_a_zero_update_still_ends_a_wrapper_that_clips(wrapper):
    """`_norm` gives both a number of NumPy's, by which this is no exception."""
    arrays = ArrayRecord({"w": Array(np.zeros(1))})
    for norm in (0.25, np.float64(0.25)):
        strategy = (
            wrapper(FedAvg(), 0.0, 2, norm, clipped_count_stddev=0.0)
            if wrapper in ADAPTIVE
            else wrapper(FedAvg(), 0.0, norm, 2)
        )
        strategy.configure_train(1, arrays, ConfigRecord(), nodes(2))
        replies = [reply_to(message(), 0.0, 0) for _ in range(2)]
        expected = (
            nullcontext()
            if isinstance(norm, np.float64)
            else pytest.raises(ZeroDivisionError)
        )
        with np.errstate(divide="ignore"), expected:
            strategy.aggregate_train(1, replies)


def test_noise_comes_from_numpys_global_generator():
    """`benchmarks/digests.py` seeds it: nothing else makes private runs repeatable."""
    noisy = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        strategy = FIXED[0](FedAvg(), 1.0, 1.0, 2)
        arrays = ArrayRecord({"w": Array(np.zeros(1))})
        strategy.configure_train(1, arrays, ConfigRecord(), nodes(2))
        replies = [reply_to(message(), 1.0, 0) for _ in range(2)]
        new, _ = strategy.aggregate_train(1, replies)
        noisy.append(float(new["w"].numpy()[0]))
    assert noisy[0] == noisy[1] != 1.0


def test_the_bit_of_an_adaptive_client_has_our_name():
    """`server/replies.py` asks for it by a name of its own."""
    assert NORM_BIT == KEY_NORM_BIT


# What strategies remember: fairfal_flwr/config/federation.py


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (partial(FedAvgM, server_momentum=0.9), {"momentum_vector"}),
        (FedAdam, {"m_t", "v_t"}),
        (FedAdagrad, {"m_t", "v_t"}),
        (FedYogi, {"m_t", "v_t"}),
    ],
)
def test_momenta_are_all_that_a_round_leaves_and_the_next_one_reads(build, names):
    """`remembers` names them, and `Federation.state_dict` writes them down.

    What else a strategy sets in a round, `current_arrays`, is set anew in the next.
    """
    strategy = build()
    before = dict(vars(strategy))
    arrays = ArrayRecord({"w": Array(np.zeros(1))})
    strategy.configure_train(1, arrays, ConfigRecord(), nodes(2))
    strategy.aggregate_train(1, [reply_to(message(), 1.0, 0) for _ in range(2)])
    changed = {name for name, v in vars(strategy).items() if v is not before[name]}
    assert changed == {*names, "current_arrays"}


# Asking clients: fairfal_flwr/messages.py, fairfal_flwr/server/exchange.py, sampling.py


def test_error_codes_are_in_the_insides_alone():
    """`messages.refuse` and `exchange._is_gone` need two codes that are not public."""
    assert (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.NODE_UNAVAILABLE) == (2, 5)
    assert not hasattr(flwr.app, "ErrorCode")


def test_a_node_says_when_it_was_activated():
    """`exchange._activations` sees a restart by it."""
    node = NodeInfo(node_id=1, last_activated_at="now")
    assert (node.node_id, node.last_activated_at) == (1, "now")
    assert hasattr(Grid, "get_nodes")


def test_flowers_own_exchange_still_looks_every_three_seconds():
    """`exchange.exchange` pushes and pulls by itself, to see replies sooner."""
    assert "time.sleep(3)" in method_of_the_grid("send_and_receive")


def test_messages_that_are_too_large_come_back_as_none():
    """`exchange._push` takes an empty answer of the grid for that."""
    before, empty, _ = method_of_the_grid("push_messages").partition("return []")
    assert "PAYLOAD_TOO_LARGE" in before
    assert empty


def test_flower_still_samples_with_pythons_global_generator():
    """`sampling.grid_of` shows a strategy only the nodes that we drew ourselves."""
    before = random.getstate()
    messages = list(
        FedAvg(fraction_train=0.5, min_train_nodes=1).configure_train(
            1, ArrayRecord(), ConfigRecord(), nodes(8)
        )
    )
    assert len(messages) == 4
    assert random.getstate() != before


def test_a_strategy_asks_a_grid_for_node_ids_alone():
    """`sampling.grid_of` has nothing else."""
    arrays, config = ArrayRecord(), ConfigRecord()
    strategy = FedAvg(fraction_evaluate=1.0)
    assert len(list(strategy.configure_train(1, arrays, config, nodes(2)))) == 2
    assert len(list(strategy.configure_evaluate(1, arrays, config, nodes(2)))) == 2


# Logs: fairfal_flwr/errors.py, fairfal_flwr/console.py


def test_flower_logs_as_flwr():
    """`hide_traceback_of_user_errors` and `quiet_flower` take hold of that logger."""
    assert log.__self__ is logging.getLogger("flwr")


# `fairfal run`: fairfal_flwr/command/launch.py, fairfal_flwr/command/simulate.py


@pytest.mark.parametrize(
    "text", ["seed=1 data.alpha=0.5", "data.name='npz' train.horizontal-flip=true"]
)
def test_what_flower_reads_is_read_alike(text):
    """`command.run_config` reads without Flower, for speed, and takes more."""
    app = Path(__file__).parents[1]
    own = flower_config.get_project_config(app)["tool"]["flwr"]["app"]["config"]
    theirs = flower_config.flatten_dict(own) | flower_config.parse_config_args([text])
    assert merge_run_config(app, [text]) == theirs


def test_an_app_is_checked_and_bundled_by_these_functions():
    """`launch.build_bundle` calls them as `flwr run` does."""
    parameters = inspect.signature(load_and_validate).parameters
    assert parameters["check_module"].default is True
    assert list(inspect.signature(build_fab_from_disk).parameters) == ["app"]
    assert issubclass(AppPathDepthError, Exception)


def test_the_simulation_runtime_runs_an_app_in_this_process():
    """`simulate` calls what `flwr-simulation` calls, without a SuperLink."""
    given = {
        *("num_supernodes", "exit_event", "backend_config", "client_app_attr"),
        *("server_app_attr", "server_app_context", "app_dir", "run", "is_app"),
    }
    code = source("flwr.simulation.run_simulation")
    (signature,) = re.findall(r"^def _run_simulation\((.*?)\) ->", code, re.M | re.S)
    assert given <= set(re.findall(r"(\w+):", signature))
    caller = source("flwr.simulation.app")
    assert "_run_simulation(" in caller
    assert "replace(run, federation_id=NOOP_FEDERATION_ID)" in caller
    assert "get_fused_config_from_dir(app_path, run.override_config)" in caller
    assert '"RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"' in caller  # `launch` sets it


def test_a_run_and_a_process_have_the_names_that_are_given():
    """`simulate._identify` gives them, where a SuperLink would."""
    names = {"fab_id", "fab_version", "federation_id", "primary_task_id"}
    assert names | {"override_config"} <= vars(Run.create_empty(run_id=1)).keys()
    assert all(hasattr(TaskIdentity, n) for n in ("run_id", "task_id", "node_id"))
    install = inspect.signature(install_from_fab).parameters
    assert install["skip_prompt"].default is False


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("flwr.cli.install", "Successfully installed {"),
        ("flwr.simulation.ray_transport.ray_actor", "Manually terminating %s"),
    ],
)
def test_flower_prints_what_is_left_out(module, text):
    """`is_noise` knows both."""
    assert text in source(module)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("flwr.cli.run.run", "Successfully started run {"),
        ("flwr.simulation.app", "Since flwr 1.32, default simulated SuperNodes"),
    ],
)
def test_flwr_run_says_what_the_tests_read(module, text):
    """`tests/superlink.py` and `tests/deployment/` find a run's id by the first."""
    assert text in source(module)


@pytest.mark.parametrize(
    ("module", "variable"),
    [
        ("flwr.common.constant", "FLWR_HOME"),
        ("flwr.supercore.logger", "FLWR_LOG_LEVEL"),
        ("flwr.supercore.telemetry", "FLWR_TELEMETRY_ENABLED"),
        ("flwr.supercore.constant", "FLWR_DISABLE_UPDATE_CHECK"),
        ("flwr.common.constant", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"),
        ("flwr.supercore.superexec.run_superexec", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"),
    ],
)
def test_flower_reads_the_environment_that_is_set(module, variable):
    """`launch` sets the first four, `docker/` the others too."""
    assert f'"{variable}"' in source(module)


def test_ray_asks_for_a_token_and_stays_on_the_loopback():
    """`launch._environment` sets what closes Ray's ports; without, they are open.

    `tests/command/test_stops.py` shows that they are closed.
    """
    ray = Path(find_spec("ray").origin).parent
    constants = (ray / "_private" / "ray_constants.py").read_text()
    assert '"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"' in constants
    services = (ray / "_private" / "services.py").read_text()
    assert re.search(
        r"if not ray_constants.ENABLE_RAY_CLUSTER:.*?localhost", services, re.S
    )
    setup = ray / "_private" / "authentication" / "authentication_token_setup.py"
    assert "`RAY_AUTH_MODE` environment variable" in setup.read_text()


# Containers: docker/, tests/deployment/


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("flwr.supernode.cli", "flower_supernode"),  # the compose files' entry point
        ("flwr.supernode.cli.flower_supernode", "_parse_args_run_supernode"),
        ("flwr.superlink.cli.flower_superlink", "_parse_args_run_superlink"),
        ("flwr.supercore.cli.flower_superexec", "_parse_args"),
    ],
)
def test_flowers_programs_are_functions_without_arguments(module, name):
    """The compose files wrap one, since a SuperNode that gives up lives on as a shell.

    The others are the parsers by which `test_compose_files.py` reads the commands.
    """
    function = getattr(importlib.import_module(module), name)
    assert not inspect.signature(function).parameters


# The tests' own Grid: tests/grid.py, tests/server/test_clients.py, test_scaffold.py


def test_a_message_needs_an_identity_of_its_process(monkeypatch):
    """Tests set `TaskIdentity`, since outside a run nobody does."""
    message()
    monkeypatch.setattr(TaskIdentity, "_run_id", None)
    with pytest.raises(RuntimeError, match="run_id is not set"):
        message()


@pytest.mark.parametrize("name", ["message_id", "src_node_id", "reply_to_message_id"])
def test_the_metadata_of_a_message_is_kept_by_these_names(name):
    """Grids of tests write them, as the SuperLink does; there is no public way."""
    request = message()
    assert f"_{name}" in request.metadata.__dict__
    request.metadata.__dict__[f"_{name}"] = 42
    assert getattr(request.metadata, name) == 42
