"""The page of a report in a real browser: wide and narrow, light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_up import make_run
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app

pytestmark = pytest.mark.slow

# Pairs of texts in one picture that overlap, by what they say.
OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const all = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
  const boxes = all.map(text => text.getBoundingClientRect());
  return all.flatMap((one, i) => all.slice(i + 1).filter((_, j) => {
    const a = boxes[i], b = boxes[i + 1 + j], slack = 1.5;
    return a.left + slack < b.right && b.left + slack < a.right
      && a.top + slack < b.bottom && b.top + slack < a.bottom;
  }).map(other => [one.textContent, other.textContent]));
})"""

# Texts that stick out of their picture.
OUTSIDE = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 2 || box.right > frame.right + 2);
  }).map(text => text.textContent);
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    for seed in range(2):
        for place, name in enumerate(("random", "fairfal", "least-confidence")):
            make_run(root, name, seed, gain=place / 20, clients=5, cycles=4)
    words = ["report", str(root / "runs"), "-o", str(root / "page")]
    assert CliRunner().invoke(app, words).exit_code == 0
    return (root / "page" / "report.html").as_uri()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(chromium, page, scheme, width):
    context = chromium.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}
    )
    screen = context.new_page()
    asked = []
    screen.on("request", lambda request: asked.append(request.url))
    screen.goto(page)
    scroll = screen.evaluate("document.documentElement.scrollWidth")
    assert scroll <= width
    assert screen.evaluate(OVERLAPS) == []
    assert screen.evaluate(OUTSIDE) == []
    assert [url for url in asked if not url.startswith("data:")] == [page]
    found = Axe().run(screen).response["violations"]
    assert [
        f"{flaw['id']}: {flaw['nodes'][0]['html']}"
        for flaw in found
        if flaw["impact"] in ("serious", "critical")
    ] == []
    context.close()
