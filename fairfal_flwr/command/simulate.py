"""Run an app's bundle in Flower's simulation runtime, in this process.

    python -P simulate.py BUNDLE ORDER

ORDER is a JSON file that `launch.run_app` wrote. The program imports nothing of this
package, so that server and clients get all of it from the bundle.
"""

import json
import os
import secrets
import sys
from importlib import import_module
from logging import ERROR
from pathlib import Path
from typing import Any, NoReturn

from flwr.app import Context, RecordDict
from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore import log
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

TASK = 1
REFUSED = 2


def simulate(bundle: bytes, order: dict[str, Any]) -> str | None:
    """Install a bundle below `FLWR_HOME` and run it to its end.

    Returns what the app itself has against the run, in which case it is not begun.
    """
    app = install_from_fab(bundle, skip_prompt=True)
    run = _identify(bundle, order["run-config"])
    components = get_project_config(app)["tool"]["flwr"]["app"]["components"]
    config = get_fused_config_from_dir(app, run.override_config)
    if reason := _ask_app(app, components["serverapp"], config):
        return reason
    _run_simulation(
        num_supernodes=order["num-supernodes"],
        exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": order["gpus-per-actor"]},
            "init_args": {"num_cpus": order["actors"]},
        },
        client_app_attr=components["clientapp"],
        server_app_attr=components["serverapp"],
        server_app_context=Context(
            run_id=run.run_id,
            node_id=SUPERLINK_NODE_ID,
            node_config={},
            state=RecordDict(),
            run_config=config,
        ),
        app_dir=str(app),
        run=run,
        is_app=True,
    )
    return None


def _ask_app(app: Path, server_app: str, config: dict[str, Any]) -> str | None:
    """Return what the ServerApp's module has against a run, if it has a `check`."""
    sys.path.insert(0, str(app))  # as Flower does
    module = import_module(server_app.partition(":")[0])
    check = getattr(module, "check", None)
    return check(config) if check else None


def _identify(bundle: bytes, run_config: dict[str, Any]) -> Run:
    """Give this process and the run the names that a SuperLink would give them."""
    run = Run.create_empty(run_id=secrets.randbits(62))
    run.fab_id, run.fab_version = get_fab_metadata(bundle)
    run.federation_id, run.primary_task_id = NOOP_FEDERATION_ID, TASK
    run.override_config = run_config
    TaskIdentity.run_id, TaskIdentity.task_id = run.run_id, TASK
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return run


def main() -> None:
    """Run, and leave why it did not complete."""
    bundle, order = (Path(name).read_bytes() for name in sys.argv[1:])
    values = json.loads(order)
    try:
        refused = simulate(bundle, values)
    except Exception as error:
        log(ERROR, "The simulation raised an exception", exc_info=error)
        _leave(values["outcome"], {"error": str(error)}, 1)
    if refused:
        _leave(values["outcome"], {"refused": refused}, REFUSED)


def _leave(outcome: str, facts: dict[str, str], status: int) -> NoReturn:
    """End at once: the ServerApp's thread may wait for clients that are gone."""
    Path(outcome).write_text(json.dumps(facts))
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
