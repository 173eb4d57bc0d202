"""Who may come in: one-time tokens, sessions, and where a request may come from."""

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from hmac import compare_digest
from secrets import token_urlsafe
from threading import Lock
from urllib.parse import urlsplit

from starlette.requests import Request

__all__ = ["LOOPBACK", "Doors", "RefusedError", "Session", "is_loopback"]

LOOPBACK = "127.0.0.1"
CSRF_HEADER = "x-csrf-token"
FROM_HERE = {"same-origin", "none"}


class RefusedError(Exception):
    """Why a request is not answered, in one line, and HTTP's status for it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Session:
    """One browser that came in.

    Parameters
    ----------
    key : str
        The secret in its cookie.
    csrf : str
        The secret that its requests carry in a header.
    annotator : str
        The name that its person gave; empty until then.
    """

    key: str = field(default_factory=token_urlsafe)
    csrf: str = field(default_factory=token_urlsafe)
    annotator: str = ""


class Doors:
    """The tokens and sessions of one server.

    Parameters
    ----------
    host : str
        The address that it listens on.
    announce : callable
        Called with each new token: at once, and whenever one was used.
    """

    def __init__(self, host: str, announce: Callable[[str], None]) -> None:
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}
        self._announce = announce
        self._sessions: list[Session] = []
        self._lock = Lock()
        self._token = ""
        self._renew()

    def enter(self, token: str) -> Session | None:
        """Take a token and give a session for it; None if it is not the present one."""
        with self._lock:
            if not compare_digest(token.encode(), self._token.encode()):
                return None
            session = Session()
            self._sessions.append(session)
            self._renew()
        return session

    def session(self, request: Request) -> Session | None:
        """Return the session that a request's cookie proves."""
        given = request.cookies.get(self.cookie(request), "").encode()
        found = None
        for session in self._sessions:
            if compare_digest(given, session.key.encode()):
                found = session
        return found

    @staticmethod
    def cookie(request: Request) -> str:
        """Return the cookie's name; cookies of one host's ports are not apart."""
        return f"fairfal-{request.url.port or 80}"

    def check_host(self, request: Request) -> None:
        """Raise unless a request names this host, or an address.

        A page elsewhere that lets its own name point here cannot name another one, and
        no name that it owns is an address.
        """
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if name not in self._names and not _is_address(name):
            raise RefusedError(421, "This server does not go by that name.")

    def check_origin(self, request: Request) -> None:
        """Raise if another site's page sent this request."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        host = request.headers.get("host")
        if site not in FROM_HERE or origin not in (
            None,
            f"http://{host}",
            f"https://{host}",
        ):
            raise RefusedError(403, "Another site's page asked for this.")

    def check_csrf(self, request: Request, session: Session) -> None:
        """Raise unless the page that this server gave sent this request."""
        given = request.headers.get(CSRF_HEADER, "")
        if not compare_digest(given.encode(), session.csrf.encode()):
            raise RefusedError(403, "This page is out of date; reload it.")

    def _renew(self) -> None:
        self._token = token_urlsafe()
        self._announce(self._token)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return host == "localhost" or (
        _is_address(host) and ipaddress.ip_address(host).is_loopback
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
