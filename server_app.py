"""Flower ServerApp: a run config becomes a campaign."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fairfal_flwr.config import RunConfig
from fairfal_flwr.console import quiet_flower, show_log
from fairfal_flwr.errors import hide_traceback_of_user_errors
from fairfal_flwr.server.campaign import Campaign

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run config describes."""
    hide_traceback_of_user_errors()
    quiet_flower()
    show_log()
    Campaign(RunConfig.from_flat(context.run_config), grid).run()
