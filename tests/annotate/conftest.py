"""A real browser for the labeling page."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asked import Asked
from playwright.sync_api import Browser, BrowserContext, Page

from fairfal_flwr.annotate.serve import serving
from fairfal_flwr.annotate.site import Site

PATIENCE = 60_000  # milliseconds, as `chromium` has


class Screens:
    """Windows of one browser, all of which must be free of errors in the end."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.errors: list[str] = []
        self.contexts: list[BrowserContext] = []

    def open(self, link: str, name: str = "Ann", **options) -> Page:
        options.setdefault("viewport", {"width": 1280, "height": 800})
        context = self.browser.new_context(**options)
        self.contexts.append(context)
        screen = self.tab(context, link)
        screen.get_by_label("Your name").fill(name)
        screen.keyboard.press("Enter")
        return screen

    def tab(self, context: BrowserContext, link: str) -> Page:
        screen = context.new_page()
        screen.set_default_timeout(PATIENCE)
        screen.on("pageerror", lambda error: self.errors.append(str(error)))
        screen.on("console", self.hear)
        screen.goto(link)
        return screen

    def hear(self, message) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)


@pytest.fixture
def screens(chromium: Browser) -> Iterator[Screens]:
    screens = Screens(chromium)
    yield screens
    for context in screens.contexts:
        context.close()
    assert screens.errors == []


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Serve a state folder; each call gives the newest link."""
    told: list[str] = []
    with serving(Site(tmp_path / "state"), "127.0.0.1", 0, told.append):
        yield lambda: told[-1]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "state")
