"""The server of the labeling page: in front, or beside something else."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from fairfal_flwr.annotate.app import make_app
from fairfal_flwr.annotate.doors import Doors, is_loopback
from fairfal_flwr.annotate.site import Site
from fairfal_flwr.errors import UserError

__all__ = ["serve", "serving"]

Say = Callable[[str], None]
PATIENCE = 2  # seconds that an open connection may still take at the end


def serve(site: Site, host: str, port: int, say: Say) -> None:
    """Serve until a signal ends it.

    Parameters
    ----------
    site : Site
        Whose questions.
    host : str
        The address to listen on.
    port : int
        0 for any that is free.
    say : callable
        Takes each line for the person who started it: the address with a token, and
        the next one once it was used.

    Raises
    ------
    UserError
        If nobody can listen there.
    """
    with _listening(host, port) as listener:
        _server(site, host, listener, say).run(sockets=[listener])


@contextmanager
def serving(site: Site, host: str, port: int, say: Say) -> Iterator[None]:
    """Serve in a thread of its own while the block runs; see `serve`."""
    with _listening(host, port) as listener:
        server = _server(site, host, listener, say)
        thread = Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


def _server(site: Site, host: str, listener: socket.socket, say: Say) -> uvicorn.Server:
    port = listener.getsockname()[1]
    if not is_loopback(host):
        say(
            f"Warning: {host} is reached from other machines, and what travels is not "
            "encrypted; put TLS in front of it."
        )
    name = f"[{host}]" if ":" in host else host
    doors = Doors(host, lambda token: say(f"http://{name}:{port}/?token={token}"))
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


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UserError(f"Cannot listen on {host}:{port}: {reason}.") from None
    return listener
