"""No view of the labeling page has a serious flaw for who sees or moves otherwise."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow


def flaws(screen: Page) -> list[str]:
    """Return what axe-core calls serious or worse."""
    found = Axe().run(screen).response["violations"]
    return [
        f"{flaw['id']}: {node['html']}"
        for flaw in found
        if flaw["impact"] in ("serious", "critical")
        for node in flaw["nodes"]
    ]


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(asked, screens, link, scheme, size):
    (sample, *_) = asked.ask(9)
    width, height = size
    context = screens.browser.new_context(
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": height},
    )
    screens.contexts.append(context)
    stranger = screens.tab(context, link().partition("?")[0])
    assert flaws(stranger) == []
    screen = screens.tab(context, link())
    expect(screen.get_by_label("Your name")).to_be_visible()
    assert flaws(screen) == []
    screen.get_by_label("Your name").fill("Ann")
    screen.keyboard.press("Enter")
    expect(screen.locator("#image")).to_be_visible()
    assert flaws(screen) == []
    screen.keyboard.press("1")
    screen.keyboard.press("?")
    expect(screen.locator("#help-dialog")).to_be_visible()
    assert flaws(screen) == []
    screen.keyboard.press("Escape")
    screen.keyboard.press("l")
    expect(screen.locator("#history button")).to_have_count(1)
    assert flaws(screen) == []
    screen.keyboard.press("Escape")
    asked.ledger.answer(sample, 5, "Bo")
    screen.keyboard.press("ArrowLeft")
    expect(screen.locator("#again")).to_contain_text("Bo")
    assert flaws(screen) == []
    screen.keyboard.press("g")
    for place in range(3):
        expect(screen.locator("#group")).to_have_value("120"[place])
        assert flaws(screen) == []
        screen.keyboard.press("4")
    expect(screen.locator("#waiting-title")).to_contain_text("All is answered")
    assert flaws(screen) == []
    screen.context.set_offline(True)
    expect(screen.locator("#alert")).to_be_visible()
    assert flaws(screen) == []


def test_axe_is_asked_at_all(chromium):
    screen = chromium.new_page()
    screen.set_content("<html lang=en><title>t</title><img src=x><button></button>")
    assert {flaw.split(":")[0] for flaw in flaws(screen)} == {
        "image-alt",
        "button-name",
    }
    screen.close()
