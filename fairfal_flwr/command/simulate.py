"""Run an app's bundle in Flower's simulation runtime, in this process.

    python -P simulate.py BUNDLE ORDER

ORDER is a JSON file that `launch.run_app` wrote. The program imports nothing of this
package, so that server and clients get all of it from the bundle.
"""

import json
import os
import secrets
import sys
from logging import ERROR
from pathlib import Path
from typing import Any, NoReturn

from flwr.app import Context, RecordDict
from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.server_app import LoadServerAppError
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore import log
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

TASK = 1
REFUSED = 2


def simulate(bundle: bytes, order: dict[str, Any]) -> None:
    """Install a bundle below `FLWR_HOME` and run it; this process ends with it."""
    app = install_from_fab(bundle, skip_prompt=True)
    run = _identify(bundle, order["run-config"])
    components = get_project_config(app)["tool"]["flwr"]["app"]["components"]
    config = get_fused_config_from_dir(app, run.override_config)
    _run_simulation(
        num_supernodes=order["num-supernodes"],
        exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": order["gpus-per-actor"]},
            "init_args": {"num_cpus": order["actors"]},
        },
        client_app_attr=components["clientapp"],
        server_app=_ending_with(components["serverapp"], app, order["outcome"]),
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


def _ending_with(reference: str, app: Path, outcome: str) -> ServerApp:
    """Return the app's ServerApp, with whose end this process ends as well.

    It is asked first what it has against the run, if its module has a `check`, while
    Ray is started beside it. In the end Ray would be taken down politely, which takes
    longer than the guard does.
    """
    ends = ServerApp()

    @ends.main()
    def main(grid: Grid, context: Context) -> None:
        server_app = load_app(reference, LoadServerAppError, app)
        module = sys.modules[reference.partition(":")[0]]
        check = getattr(module, "check", None)
        if check and (reason := check(context.run_config)):
            _leave(outcome, {"refused": reason}, REFUSED)
        server_app(grid=grid, context=context)
        _leave(outcome, {}, 0)

    return ends


def _leave(outcome: str, facts: dict[str, str], status: int) -> NoReturn:
    """Say how it ended, and end, whatever other threads are about."""
    Path(outcome).write_text(json.dumps(facts))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
        simulate(bundle, values)
    except Exception as error:
        log(ERROR, "The simulation raised an exception", exc_info=error)
        _leave(values["outcome"], {"error": str(error)}, 1)


if __name__ == "__main__":
    main()
