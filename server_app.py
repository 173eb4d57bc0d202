"""Flower ServerApp: a run config becomes a campaign."""

from flwr.app import Context, UserConfig
from flwr.serverapp import Grid, ServerApp

from fairfal_flwr.config import RunConfig
from fairfal_flwr.console import quiet_flower, show_log
from fairfal_flwr.errors import UserError, hide_traceback_of_user_errors
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.readiness import check_ready

app = ServerApp()


def check(run_config: UserConfig) -> str | None:
    """Say what stands against a simulated run; `fairfal run` asks before it starts."""
    try:
        check_ready(RunConfig.from_flat(run_config))
    except UserError as error:
        return str(error)
    return None


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run config describes."""
    hide_traceback_of_user_errors()
    quiet_flower()
    show_log()
    Campaign(RunConfig.from_flat(context.run_config), grid).run()
