"""The command `fairfal annotate`."""

from typing import Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.errors import UserError

__all__ = ["annotate"]


def annotate(
    state_dir: Annotated[
        str, typer.Option(help="Where the ledgers are; else the default folder.")
    ] = "",
    campaign: Annotated[
        str, typer.Option(help="Which campaign; else the one that asked last.")
    ] = "",
    client: Annotated[
        int | None, typer.Option(min=0, help="Only this client of it.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="0 for that of the last time, or any that is free."
        ),
    ] = 0,
    name: Annotated[
        str, typer.Option(help="What browsers call a proxy with TLS in front of it.")
    ] = "",
    votes: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="People who must agree; else as the run says."),
    ] = None,
) -> None:
    """Serve the page on which people label what the clients here ask for.

    Each line that it prints is an address for one browser; the next one comes when it
    was opened. Ctrl-C ends it.
    """
    from fairfal_flwr.annotate.serve import serve
    from fairfal_flwr.annotate.site import Site
    from fairfal_flwr.paths import state_root

    site = Site(state_root(state_dir), campaign, client, votes)
    try:
        site.desks()
        serve(site, host, port, typer.echo, name)
    except UserError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        typer.echo(
            "fairfal: no longer serving; every answer is in the ledger", err=True
        )
