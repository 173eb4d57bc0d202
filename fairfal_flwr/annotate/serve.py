"""The server of the labeling page: in front, or beside something else."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Thread
from time import sleep

import uvicorn

from fairfal_flwr.annotate.app import make_app
from fairfal_flwr.annotate.doors import LOOPBACK, Doors, is_loopback
from fairfal_flwr.annotate.kept import Kept, keep, what_was_kept
from fairfal_flwr.annotate.site import Site
from fairfal_flwr.errors import UserError

__all__ = ["serve", "serving"]

Say = Callable[[str], None]
EVERYWHERE = {"0.0.0.0", "::"}
PATIENCE = 2  # seconds that an open connection may still take at the end


def serve(site: Site, host: str, port: int, say: Say, name: str = "") -> None:
    """Serve until a signal ends it.

    Parameters
    ----------
    site : Site
        Whose questions.
    host : str
        The address to listen on.
    port : int
        0 for that of the last time, or any that is free.
    say : callable
        Takes each line for the person who started it: the address with a token, and
        the next one once it was used.
    name : str
        Under which browsers reach a proxy with TLS in front; empty without one.

    Raises
    ------
    UserError
        If nobody can listen there.
    """
    kept = what_was_kept(site.root)
    with _listening(host, port, kept.port) as listener:
        _server(site, host, name, kept, listener, say).run(sockets=[listener])


@contextmanager
def serving(site: Site, host: str, port: int, say: Say) -> Iterator[None]:
    """Serve in a thread of its own while the block runs; see `serve`."""
    kept = what_was_kept(site.root)
    with _listening(host, port, kept.port) as listener:
        server = _server(site, host, "", kept, listener, say)
        thread = Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            sleep(0.005)
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


def _server(
    site: Site, host: str, name: str, kept: Kept, listener: socket.socket, say: Say
) -> uvicorn.Server:
    port = listener.getsockname()[1]
    keep(site.root, replace(kept, port=port))
    if not is_loopback(host) and not name:
        say(
            f"Warning: {host} is reached from other machines, and what travels is not "
            "encrypted; put TLS in front of it."
        )
    reached = LOOPBACK if host in EVERYWHERE else host
    shown = f"[{reached}]" if ":" in reached else reached
    address = f"https://{name}" if name else f"http://{shown}:{port}"
    doors = Doors(
        {host, *filter(None, [name])},
        kept.key,
        lambda token: say(f"{address}/?token={token}"),
    )
    config = uvicorn.Config(
        make_app(site, doors),
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=PATIENCE,
        ws="none",
    )
    return uvicorn.Server(config)


def _listening(host: str, port: int, last: int) -> socket.socket:
    """Return a socket at a port; for 0, at the last one unless somebody has it."""
    if not port and last:
        with suppress(UserError):
            return _bound(host, last)
    return _bound(host, port)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UserError(f"Cannot listen on {host}:{port}: {reason}.") from None
    return listener
