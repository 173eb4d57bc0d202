"""Who may come in: one-time tokens, sessions, and where a request may come from."""

import ipaddress
import json
import socket
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from hmac import compare_digest, digest
from secrets import token_urlsafe
from threading import Lock
from urllib.parse import urlsplit

from starlette.requests import Request

__all__ = ["LOOPBACK", "Doors", "RefusedError", "Session", "is_loopback"]

LOOPBACK = "127.0.0.1"
CSRF_HEADER = "x-csrf-token"
FROM_HERE = {"same-origin", "none"}
STAYS = 7 * 24 * 3600.0  # seconds


class RefusedError(Exception):
    """Why a request is not answered, in one line, and HTTP's status for it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Session:
    """One browser that came in.

    Parameters
    ----------
    name : str
        Its own, by chance.
    end : float
        When it must come in anew, in seconds since 1970.
    annotator : str
        The name that its person gave; empty until then.
    """

    name: str
    end: float
    annotator: str = ""

    def of(self, annotator: str) -> "Session":
        """Return it with its person's name."""
        return replace(self, annotator=annotator)


class Doors:
    """The tokens and sessions of one server.

    A session is in its browser's cookie alone, sealed with the key, so it outlives the
    server.

    Parameters
    ----------
    hosts : set of str
        The names and addresses under which browsers reach it, beside this machine's.
    key : str
        Secret.
    announce : callable
        Called with each new token: at once, and whenever one was used.
    """

    def __init__(
        self, hosts: set[str], key: str, announce: Callable[[str], None]
    ) -> None:
        own = {"localhost", socket.gethostname()}
        self._names = {name.lower() for name in own | hosts}
        self._key = key.encode()
        self._announce = announce
        self._lock = Lock()
        self._token = ""
        self._renew()

    def enter(self, token: str) -> Session | None:
        """Take a token and give a session for it; None if it is not the present one."""
        with self._lock:
            if not compare_digest(token.encode(), self._token.encode()):
                return None
            self._renew()
        return Session(token_urlsafe(), time.time() + STAYS)

    def session(self, request: Request) -> Session | None:
        """Return the session that a request's cookie proves."""
        given = request.cookies.get(self.cookie(request), "")
        content, _, seal = given.partition(".")
        if not compare_digest(seal.encode(), self._seal("cookie", content).encode()):
            return None
        session = Session(*json.loads(urlsafe_b64decode(content)))
        return session if time.time() < session.end else None

    def cookie_of(self, session: Session) -> str:
        """Return what proves a session."""
        entry = json.dumps([session.name, session.end, session.annotator])
        content = urlsafe_b64encode(entry.encode()).decode()
        return f"{content}.{self._seal('cookie', content)}"

    def csrf(self, session: Session) -> str:
        """Return the secret that the requests of a session's pages carry."""
        return self._seal("csrf", session.name)

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
        if not compare_digest(given.encode(), self.csrf(session).encode()):
            raise RefusedError(412, "This page is out of date; reload it.")

    def _seal(self, purpose: str, content: str) -> str:
        return digest(self._key, f"{purpose}:{content}".encode(), "sha256").hex()

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
