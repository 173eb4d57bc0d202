"""The web application: pages, questions and answers for those who came in."""

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairfal_flwr.annotate.desk import Desk, Item, UnknownError
from fairfal_flwr.annotate.doors import Doors, RefusedError, Session
from fairfal_flwr.annotate.images import UnfitError
from fairfal_flwr.annotate.site import Site
from fairfal_flwr.client.questions import StaleError
from fairfal_flwr.console import one_line
from fairfal_flwr.errors import UserError

__all__ = ["make_app"]

log = logging.getLogger("fairfal.annotate")

HERE = Path(__file__).parent
LONGEST_BODY = 64 * 1024
LONGEST_NAME = 60
MOST_ITEMS = 500
LARGEST_ID = 2**63 - 1

SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(site: Site, doors: Doors) -> Starlette:
    """Return the application.

    Parameters
    ----------
    site : Site
        Whose questions it serves.
    doors : Doors
        Who may come in.
    """
    site_calls = _SiteCalls(site)
    routes = [
        Route("/", _front(doors), methods=["GET"]),
        Route("/api/name", _named(doors), methods=["POST"]),
        Route("/api/state", _posted(doors, site_calls.state), methods=["POST"]),
        Route("/api/answer", _posted(doors, site_calls.answer), methods=["POST"]),
        Route("/api/undo", _posted(doors, site_calls.undo), methods=["POST"]),
        Route("/api/skip", _posted(doors, site_calls.skip), methods=["POST"]),
        Route("/api/history", _posted(doors, site_calls.history), methods=["POST"]),
        Route("/api/question", _posted(doors, site_calls.question), methods=["POST"]),
        Route("/api/grid", _posted(doors, site_calls.grid), methods=["POST"]),
        Route("/image/{desk}/{sample}", _image(site, doors), methods=["GET"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, doors=doors)],
        exception_handlers={
            RefusedError: _refusal,
            HTTPException: _refusal,
            UserError: _trouble,
        },
    )


class _Guard:
    """Adds the headers to every response and lets only this host's requests in."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app = app
        self.doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in SAFE.items()
                        if name.encode() not in own
                    ),
                ]
            await send(message)

        try:
            self.doors.check_host(Request(scope))
        except RefusedError as error:
            response = PlainError(error.status, str(error))
            await response(scope, receive, send_safely)
            return
        await self.app(scope, receive, send_safely)


class PlainError(JSONResponse):
    """An error as one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__({"error": one_line(reason)}, status_code=status)


def _front(doors: Doors) -> Endpoint:
    """Return the page, for a token or a session; for anybody else, how to come in."""
    loader = FileSystemLoader(HERE / "templates")
    templates = Environment(loader=loader, autoescape=True)

    async def endpoint(request: Request) -> Response:
        token = request.query_params.get("token", "")
        session = doors.session(request)
        if session is not None:
            return page_for(session)
        entered = None if _is_ahead_of_time(request) else doors.enter(token)
        if entered is None:
            page = templates.get_template("refused.html")
            return HTMLResponse(page.render(used=bool(token)), status_code=403)
        return _remembering(page_for(entered), doors, request, entered)

    def page_for(session: Session) -> Response:
        page = templates.get_template("page.html")
        csrf = doors.csrf(session)
        return HTMLResponse(page.render(csrf=csrf, name=session.annotator))

    return endpoint


def _named(doors: Doors) -> Endpoint:
    """Return the endpoint that takes a person's name."""

    async def endpoint(request: Request) -> Response:
        session = _session(doors, request)
        doors.check_csrf(request, session)
        named = session.of(_name((await _body(request)).get("name")))
        response = JSONResponse({"name": named.annotator})
        return _remembering(response, doors, request, named)

    return endpoint


def _remembering(
    response: Response, doors: Doors, request: Request, session: Session
) -> Response:
    """Return a response after which the browser is in this session."""
    response.set_cookie(
        doors.cookie(request),
        doors.cookie_of(session),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _image(site: Site, doors: Doors) -> Endpoint:
    """Return a question's image, or why there is none."""

    async def endpoint(request: Request) -> Response:
        _session(doors, request)
        return await run_in_threadpool(respond, request)

    def respond(request: Request) -> Response:
        desk = _desk(site, request.path_params["desk"])
        sample = _sample_id(request.path_params["sample"])
        try:
            picture = desk.picture(sample, thumb="thumb" in request.query_params)
        except UnfitError as error:
            return PlainError(422, str(error))
        except UnknownError as error:
            return PlainError(404, str(error))
        return Response(picture.content, media_type=picture.media_type)

    return endpoint


class _SiteCalls:
    """What the page asks for; each takes what it sent and the session."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def state(self, sent: dict[str, Any], session: Session) -> Any:
        desks = self.site.desks()
        desk = self._asked_for(sent, desks)
        me = _person(session)
        listed = [{"key": d.key, "title": d.title, "open": d.awaits(me)} for d in desks]
        if desk is None:
            return {"desks": listed, "desk": None}
        state = desk.state(me, _sample_ids(sent.get("showing", [])))
        return {"desks": listed, "desk": desk.key, "title": desk.title, **state}

    def _asked_for(self, sent: dict[str, Any], desks: list[Desk]) -> Desk | None:
        key = sent.get("desk")
        known = self.site.desk(key) if isinstance(key, str) else None
        return known or (desks[0] if desks else None)

    def answer(self, sent: dict[str, Any], session: Session) -> Any:
        desk = _desk(self.site, sent.get("desk"))
        items = _items(sent.get("items"))
        return desk.answer(_person(session), _label(sent.get("label")), items)

    def undo(self, sent: dict[str, Any], session: Session) -> Any:
        try:
            return _desk(self.site, sent.get("desk")).undo(_person(session))
        except StaleError:
            raise RefusedError(409, "Somebody answered just now; look again.") from None

    def skip(self, sent: dict[str, Any], session: Session) -> Any:
        desk = _desk(self.site, sent.get("desk"))
        desk.skip(_person(session), _sample_id(sent.get("id")))
        return {}

    def history(self, sent: dict[str, Any], session: Session) -> Any:
        desk = _desk(self.site, sent.get("desk"))
        mine = sent.get("whose") != "all"
        return desk.history(
            _person(session), mine=mine, before=_row(sent.get("before"))
        )

    def question(self, sent: dict[str, Any], session: Session) -> Any:
        desk = _desk(self.site, sent.get("desk"))
        return desk.question(_person(session), _sample_id(sent.get("id")))

    def grid(self, sent: dict[str, Any], session: Session) -> Any:
        desk = _desk(self.site, sent.get("desk"))
        first = "suggestion" not in sent
        label = _label(sent.get("suggestion"))
        return desk.grid(_person(session), label, first=first)


def _posted(doors: Doors, call: Callable[[dict[str, Any], Session], Any]) -> Endpoint:
    """Return an endpoint that lets a call answer what a page of ours sent."""

    async def endpoint(request: Request) -> Response:
        session = _session(doors, request)
        doors.check_csrf(request, session)
        sent = await _body(request)
        try:
            return JSONResponse(await run_in_threadpool(call, sent, session))
        except UnknownError as error:
            return PlainError(404, str(error))

    return endpoint


def _session(doors: Doors, request: Request) -> Session:
    doors.check_origin(request)
    session = doors.session(request)
    if session is None:
        raise RefusedError(401, "Open the newest link that `fairfal annotate` printed.")
    return session


async def _body(request: Request) -> dict[str, Any]:
    """Return what was sent: a JSON object that is not too long."""
    if request.headers.get("content-type") != "application/json":
        raise RefusedError(415, "Only application/json is understood.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LONGEST_BODY:
            raise RefusedError(413, f"More than {LONGEST_BODY >> 10} KiB were sent.")
    try:
        sent = json.loads(bytes(content))
    except (ValueError, RecursionError):
        raise RefusedError(400, "What was sent is no JSON.") from None
    if not isinstance(sent, dict):
        raise RefusedError(400, "What was sent is no JSON object.")
    return sent


def _is_ahead_of_time(request: Request) -> bool:
    """Tell whether somebody fetches a page that no person looks at yet."""
    fetches_ahead = "prefetch" in request.headers.get("sec-purpose", "")
    return request.method != "GET" or fetches_ahead


def _desk(site: Site, key: object) -> Desk:
    desk = site.desk(key) if isinstance(key, str) else None
    if desk is None:
        raise RefusedError(404, "There is no such client here.")
    return desk


def _person(session: Session) -> str:
    if not session.annotator:
        raise RefusedError(409, "Say your name first.")
    return session.annotator


def _name(given: object) -> str:
    name = " ".join(given.split()) if isinstance(given, str) else ""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise RefusedError(
            400, f"A name has 1 to {LONGEST_NAME} letters that can be seen."
        )
    return name


def _label(given: object) -> int | None:
    if given is None or (type(given) is int and 0 <= given < 2**31):
        return given
    raise RefusedError(400, "A class is a whole number, or null.")


def _sample_id(given: object) -> int:
    """Return a sample id, which travels as text: JavaScript's numbers are too short."""
    text = given if isinstance(given, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RefusedError(404, "There is no such question.")
    return min(int(text), LARGEST_ID)


def _sample_ids(given: object) -> list[int]:
    if not isinstance(given, list) or len(given) > MOST_ITEMS:
        raise RefusedError(400, f"A list has at most {MOST_ITEMS} questions.")
    return [_sample_id(entry) for entry in given]


def _items(given: object) -> list[Item]:
    if not isinstance(given, list) or not 0 < len(given) <= MOST_ITEMS:
        raise RefusedError(400, f"An answer is for 1 to {MOST_ITEMS} questions.")
    return [_item(entry) for entry in given]


def _item(given: object) -> Item:
    if not isinstance(given, dict) or (seen := _row(given.get("seen"))) is None:
        raise RefusedError(400, "An answer names a question and the row seen last.")
    return Item(_sample_id(given.get("id")), seen)


def _row(given: object) -> int | None:
    if given is None or (type(given) is int and 0 <= given <= LARGEST_ID):
        return given
    raise RefusedError(400, "A row of the ledger has a number from 1; 0 is none.")


async def _refusal(_request: Request, error: Exception) -> Response:
    if isinstance(error, RefusedError):
        return PlainError(error.status, str(error))
    assert isinstance(error, HTTPException)
    return PlainError(error.status_code, HTTPStatus(error.status_code).phrase)


async def _trouble(_request: Request, error: Exception) -> Response:
    """Say what is wrong with the files; the administrator reads it as well."""
    log.error("FairFAL: %s", error)
    return PlainError(503, str(error))
