"""Who may come in to the labeling page, and what a browser is told."""

import json
import stat
import time

import pytest
from asked import HERE, Asked, Page

from fairfal_flwr.annotate import doors as doors_module
from fairfal_flwr.annotate.kept import FILE, Kept, keep, what_was_kept
from fairfal_flwr.errors import UserError

CALLS = ["name", "state", "answer", "undo", "skip", "history", "question", "grid"]
EVIL = "http://evil.example"


@pytest.fixture
def page(tmp_path):
    Asked(tmp_path / "state").ask(3)
    return Page(tmp_path / "state")


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=%C3%A9"])
def test_without_the_token_nobody_comes_in(page, query):
    came = page.stranger().get(f"/{query}")
    assert (came.status_code, "set-cookie" in came.headers) == (403, False)


def test_a_token_is_for_one_browser_and_the_next_is_told(page):
    token = page.tokens[-1]
    cookie = page.stranger().get(f"/?token={token}").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert page.stranger().get(f"/?token={token}").status_code == 403
    assert len(set(page.tokens)) == 2
    assert page.stranger().get(f"/?token={page.tokens[-1]}").status_code == 200


def test_a_browser_that_fetches_ahead_does_not_use_the_token_up(page):
    ahead = {"sec-purpose": "prefetch;prerender"}
    address = f"/?token={page.tokens[-1]}"
    for asked in (
        page.stranger().get(address, headers=ahead),
        page.stranger().head(address),
    ):
        assert (asked.status_code, len(page.tokens)) == (403, 1)


def test_who_is_in_does_not_use_another_token_up(page):
    ann = page.person()
    assert ann.http.get(f"/?token={page.tokens[-1]}").status_code == 200
    assert len(page.tokens) == 2


@pytest.mark.parametrize("call", CALLS)
def test_every_call_needs_a_session_and_the_pages_own_secret(page, call):
    assert page.stranger().post(f"/api/{call}", json={}).status_code == 401
    ann = page.person()
    for secret in ("", "wrong", "é".encode("latin-1")):
        answer = ann.http.post(
            f"/api/{call}", json={}, headers={"x-csrf-token": secret}
        )
        assert answer.status_code == 412


def test_an_image_needs_a_session(page):
    ann = page.person()
    (question, *_) = ann.queue()
    address = f"/image/{ann.desk}/{question['id']}"
    assert ann.http.get(address).status_code == 200
    assert page.stranger().get(address).status_code == 401
    cross = ann.http.get(address, headers={"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": EVIL}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": HERE, "sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_another_sites_page_cannot_ask(page, headers, status):
    asked = page.person().http.post("/api/state", json={}, headers=headers)
    assert asked.status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost:8000", 403),
        ("127.0.0.1:8000", 403),
        ("[::1]:8000", 403),
    ],
)
def test_a_name_that_was_bent_to_point_here_gets_nothing(page, host, status):
    """A page elsewhere whose own name points here (DNS rebinding)."""
    for path in ("/", "/static/page.js", "/image/x/1"):
        answered = page.stranger().get(path, headers={"host": host}).status_code
        assert (answered == 421) == (status == 421)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 403), ("/static/page.js", 200), ("/nothing", 404), ("/image/x/1", 401)],
)
def test_every_answer_says_what_a_browser_must_not_do(page, path, status):
    answer = page.stranger().get(path)
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x>', "Zoë"])
def test_any_name_is_shown_as_text(page, name):
    ann = page.person(name)
    text = ann.http.get("/").text
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    (question, *_) = ann.queue()
    ann.answer([question], 3)
    (answered,) = ann.say("history")["items"]
    assert answered["decision"]["by"] == name


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\0b", "a‮b", 7, None])
def test_a_name_that_nobody_can_read_is_refused(page, name):
    refused = page.person().post("name", name=name)
    assert refused.status_code == 400
    assert "60 letters" in refused.json()["error"]


def test_nobody_answers_without_a_name(page):
    ann = page.person()
    ann.http.cookies.clear()
    ann.enter(page.tokens[-1])
    assert ann.post("state").status_code == 409


def test_who_is_in_stays_in_when_the_server_starts_anew(page, tmp_path):
    ann = page.person()
    again = Page(tmp_path / "state")
    ann.http.app = ann.http._transport.app = again.app
    assert 'content="Ann"' in ann.http.get("/").text
    assert ann.queue()


def test_another_key_ends_all_sessions(page, tmp_path):
    ann = page.person()
    ann.http._transport.app = Page(tmp_path / "state", key="other").app
    assert ann.post("state").status_code == 401


def test_a_cookie_that_was_changed_proves_nothing(page):
    ann = page.person()
    (name, value), *_ = ann.http.cookies.items()
    content, _, seal = value.strip('"').partition(".")
    for forged in (f"{content}x.{seal}", f"{content}.{seal[:-1]}", seal, ".", ""):
        stranger = page.stranger()
        stranger.cookies.set(name, forged)
        stranger.headers["x-csrf-token"] = ann.http.headers["x-csrf-token"]
        assert stranger.post("/api/state", json={}).status_code == 401


def test_a_session_ends_after_some_days(page, monkeypatch):
    ann = page.person()
    later = time.time() + doors_module.STAYS
    monkeypatch.setattr(doors_module.time, "time", lambda: later)
    assert ann.post("state").status_code == 401


def test_the_key_is_kept_for_its_owner_alone(tmp_path):
    root = tmp_path / "state"
    kept = Kept(what_was_kept(root).key, 1234)
    keep(root, kept)
    assert what_was_kept(root) == kept
    assert stat.S_IMODE((root / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "", "port": 0}', "{}"])
def test_a_file_that_is_no_key_gives_a_new_one(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    keys = {what_was_kept(tmp_path).key for _ in range(2)}
    assert len(keys) == 2
    assert min(map(len, keys)) == 64


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(UserError, match="Cannot write"):
        keep(tmp_path / "state", Kept("0" * 64))


def test_a_cookie_is_secure_where_the_way_is(page):
    ann = page.stranger()
    came = ann.get(f"https://127.0.0.1/?token={page.tokens[-1]}")
    assert "Secure" in came.headers["set-cookie"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"a": "\xff"}', "application/json", 400),
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (json.dumps({"a": "x" * 2**16}).encode(), "application/json", 413),
    ],
)
def test_what_is_no_small_json_object_is_refused(page, content, kind, status):
    ann = page.person()
    headers = {"content-type": kind}
    refused = ann.http.post("/api/state", content=content, headers=headers)
    assert refused.status_code == status
    assert "\n" not in refused.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fapp.py",
        "/static//etc/passwd",
        "/image/{desk}/..%2f..%2fetc%2fpasswd",
        "/image/{desk}/%2fetc%2fpasswd",
        "/image/..%2f/1",
        "/image/{desk}/1",
        "/image/{desk}/-1",
        "/image/{desk}/²",
        "/image/{desk}/99999999999999999999999",
    ],
)
def test_no_path_leads_out(page, path):
    ann = page.person()
    ann.state()
    assert ann.http.get(path.format(desk=ann.desk)).status_code == 404
