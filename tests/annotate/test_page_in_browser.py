"""People label in a real browser, by mouse, by keyboard, on a small screen."""

import re
import time
from collections.abc import Callable

import pytest
from asked import annotating
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def class_button(screen: Page, name: str):
    return screen.locator("#classes").get_by_role("button", name=name)


def shows_question(screen: Page) -> None:
    expect(screen.locator("#image")).to_be_visible()


def shows_done(screen: Page) -> None:
    expect(
        screen.get_by_text("All is answered. Thank you!", exact=True).first
    ).to_be_visible()


def test_every_question_is_answered_by_mouse(asked, screens, link):
    ids = asked.ask(8)
    screen = screens.open(link())
    for number, sample in enumerate(ids):
        class_button(screen, f"digit {number}").click()
        until(lambda sample=sample: sample in asked.decisions())
    shows_done(screen)
    assert asked.decisions() == dict(zip(ids, range(8), strict=True))
    assert {q.decision.annotator for q in asked.ledger.questions()} == {"Ann"}


def test_every_question_is_answered_by_keyboard_as_fast_as_keys_come(
    asked, screens, link
):
    ids = asked.ask(20)
    screen = screens.open(link())
    shows_question(screen)
    for number in range(4):
        screen.keyboard.press(str(number))
    until(lambda: len(asked.decisions()) == 4)
    for _ in range(16):
        shows_question(screen)
        screen.keyboard.press("x")
    shows_done(screen)
    until(lambda: len(asked.decisions()) == 20)
    assert [asked.decisions()[sample] for sample in ids[:4]] == [0, 1, 2, 3]
    assert [asked.decisions()[sample] for sample in ids[4:]] == [None] * 16


def test_undo_skip_and_going_back_by_keyboard(asked, screens, link):
    ids = asked.ask(4)
    screen = screens.open(link())
    shows_question(screen)
    screen.keyboard.press("1")
    until(lambda: asked.decisions() == {ids[0]: 1})
    screen.keyboard.press("Control+z")
    until(lambda: asked.decisions() == {})
    screen.keyboard.press("2")
    until(lambda: asked.decisions() == {ids[0]: 2})
    screen.keyboard.press("s")
    screen.keyboard.press("3")
    until(lambda: asked.decisions() == {ids[0]: 2, ids[2]: 3})
    screen.keyboard.press("ArrowLeft")
    screen.keyboard.press("ArrowLeft")
    expect(screen.locator("#again")).to_contain_text("Answered: «digit 2» by Ann")
    screen.keyboard.press("5")
    until(lambda: asked.decisions() == {ids[0]: 5, ids[2]: 3})
    screen.keyboard.press("6")
    until(lambda: asked.decisions().get(ids[3]) == 6)
    screen.keyboard.press("7")
    shows_done(screen)
    until(lambda: asked.decisions().get(ids[1]) == 7)


def test_the_list_of_answers_leads_back_to_the_first(asked, screens, link):
    ids = asked.ask(70)
    asked.ledger.answer_all([])
    for sample in ids[:65]:
        asked.ledger.answer(sample, 1, "Ann")
    screen = screens.open(link())
    shows_question(screen)
    screen.keyboard.press("l")
    entries = screen.locator("#history li")
    expect(entries).to_have_count(60)
    screen.get_by_role("button", name="Older ones").click()
    expect(entries).to_have_count(65)
    expect(screen.get_by_role("button", name="Older ones")).to_be_hidden()
    entries.last.get_by_role("button").click()
    expect(screen.locator("#why")).to_contain_text("1st of 70")
    screen.keyboard.press("9")
    until(lambda: asked.decisions()[ids[0]] == 9)


def test_two_tabs_at_one_question(asked, screens, link):
    ids = asked.ask(1)
    first = screens.open(link())
    shows_question(first)
    second = screens.tab(first.context, first.url)
    shows_question(second)
    class_button(first, "digit 1").click()
    until(lambda: asked.decisions() == {ids[0]: 1})
    class_button(second, "digit 2").click()
    expect(second.locator("#stale-text")).to_contain_text("Ann said «digit 1»")
    assert asked.decisions() == {ids[0]: 1}
    second.get_by_role("button", name="Change it to «digit 2»").click()
    until(lambda: asked.decisions() == {ids[0]: 2})
    shows_done(first)
    shows_done(second)


def test_two_people_get_different_questions(asked, screens, link):
    asked.ask(12)
    ann, bo = screens.open(link(), "Ann"), screens.open(link(), "Bo")
    shows_question(ann)
    shows_question(bo)
    assert ann.locator("#why").text_content() != bo.locator("#why").text_content()


def test_two_disagree_and_a_third_decides(asked, screens, link):
    asked.votes = 2
    ids = asked.ask(1)
    ann, bo = screens.open(link(), "Ann"), screens.open(link(), "Bo")
    shows_question(ann)
    shows_question(bo)
    class_button(ann, "digit 1").click()
    class_button(bo, "digit 2").click()
    for screen in (ann, bo):
        expect(screen.locator("#waiting-title")).to_contain_text("all that you can")
        expect(screen.locator("#stale-dialog")).to_be_hidden()
    cy = screens.open(link(), "Cy")
    expect(cy.locator("#votes")).to_contain_text("Ann says «digit 1»")
    expect(cy.locator("#votes")).to_contain_text("Bo says «digit 2»")
    class_button(cy, "digit 2").click()
    until(lambda: asked.decisions() == {ids[0]: 2})
    shows_done(ann)


def test_reload_and_the_back_button_lose_nothing(asked, screens, link):
    ids = asked.ask(3)
    screen = screens.open(link())
    class_button(screen, "digit 1").click()
    screen.reload()
    class_button(screen, "digit 2").click()
    until(lambda: len(asked.decisions()) == 2)
    assert "token" not in screen.url
    screen.goto("about:blank")
    screen.go_back()
    class_button(screen, "digit 3").click()
    shows_done(screen)
    assert asked.decisions() == dict(zip(ids, (1, 2, 3), strict=True))


def test_a_page_whose_session_was_replaced_loads_itself_anew(asked, screens, link):
    ids = asked.ask(1)
    first = screens.open(link())
    shows_question(first)
    first.context.clear_cookies()
    second = screens.tab(first.context, link())
    second.get_by_label("Your name").fill("Ann")
    second.keyboard.press("Enter")
    shows_question(second)
    class_button(first, "digit 4").click()
    until(lambda: asked.decisions() == {ids[0]: 4})
    shows_done(first)


def test_who_is_out_is_told_and_loses_nothing(asked, screens, link):
    ids = asked.ask(1)
    screen = screens.open(link())
    shows_question(screen)
    screen.context.clear_cookies()
    class_button(screen, "digit 4").click()
    expect(screen.locator("#alert")).to_contain_text("Open the newest link")
    expect(screen.locator("#alert")).to_contain_text("1 answer kept here")
    screen.on("dialog", lambda dialog: dialog.accept())
    screen.goto(link())
    screen.get_by_label("Your name").fill("Ann")
    screen.keyboard.press("Enter")
    until(lambda: asked.decisions() == {ids[0]: 4})


def test_answers_outlive_a_server_that_is_killed(asked, screens, tmp_path):
    ids = asked.ask(6)
    with annotating(tmp_path / "state") as server:
        screen = screens.open(server.link())
        shows_question(screen)
        class_button(screen, "digit 1").click()
        until(lambda: asked.decisions() == {ids[0]: 1})
        server.kill()
        class_button(screen, "digit 2").click()
        class_button(screen, "digit 3").click()
        expect(screen.get_by_role("alert").first).to_contain_text(
            re.compile("[23] answers kept here")  # the first one's reply may be lost
        )
    assert asked.decisions() == {ids[0]: 1}
    with annotating(tmp_path / "state") as server:
        until(lambda: len(asked.decisions()) == 3)
        assert [asked.decisions()[sample] for sample in ids[:3]] == [1, 2, 3]
        expect(screen.get_by_role("alert").first).to_be_hidden()
        for number in (4, 5, 6):
            shows_question(screen)
            class_button(screen, f"digit {number}").click()
        until(lambda: len(asked.decisions()) == 6)


def test_answers_that_were_not_sent_outlive_the_window(asked, screens, link):
    ids = asked.ask(2)
    screen = screens.open(link())
    shows_question(screen)
    screen.context.route("**/api/answer", lambda route: route.abort())
    class_button(screen, "digit 1").click()
    expect(screen.get_by_role("alert").first).to_contain_text("1 answer kept here")
    other = screens.tab(screen.context, "about:blank")
    screen.close(run_before_unload=False)
    other.context.unroute("**/api/answer")
    other.goto(link().partition("?")[0])
    until(lambda: asked.decisions() == {ids[0]: 1})


def test_the_page_goes_on_by_itself(asked, screens, link):
    screen = screens.open(link())
    expect(screen.get_by_role("heading", name="No questions yet")).to_be_visible()
    asked.ask(1)
    class_button(screen, "digit 1").click()
    shows_done(screen)
    asked.ledger.close(1)
    expect(screen.locator("#word")).to_contain_text("trains on your labels of cycle 1")
    asked.ask(1)
    shows_question(screen)


def test_clients_are_chosen_on_top(asked, screens, link, tmp_path):
    other = type(asked)(tmp_path / "state", client=1)
    asked.ask(2)
    other.ask(2)
    screen = screens.open(link())
    screen.locator("#desk").select_option(label="trial, client 1 (2 open)")
    expect(screen.locator("#progress-text")).to_have_text("0 of 2 in cycle 1")
    class_button(screen, "digit 4").click()
    until(lambda: list(other.decisions().values()) == [4])
    class_button(screen, "digit 5").click()
    expect(screen.locator("#waiting-text")).to_contain_text("trial, client 0: 2")
    assert asked.decisions() == {}


def test_the_grid_labels_what_is_selected(asked, screens, link):
    ids = asked.ask(18)
    screen = screens.open(link())
    shows_question(screen)
    screen.keyboard.press("g")
    tiles = screen.locator(".tile")
    selected = screen.locator(".tile[aria-selected=true]")
    expect(tiles).to_have_count(6)
    expect(selected).to_have_count(6)
    screen.keyboard.press("n")
    expect(selected).to_have_count(0)
    tiles.nth(1).click()
    tiles.nth(4).click(modifiers=["Shift"])
    expect(selected).to_have_count(4)
    tiles.nth(2).click()
    expect(selected).to_have_count(3)
    screen.locator("#grid-classes").get_by_role("button", name="digit 8").click()
    until(lambda: len(asked.decisions()) == 3)
    assert asked.decisions() == {ids[3 * place]: 8 for place in (1, 3, 4)}
    expect(tiles).to_have_count(3)
    screen.keyboard.press("u")
    until(lambda: asked.decisions() == {})


def test_the_grid_by_keyboard_alone(asked, screens, link):
    asked.ask(9)
    screen = screens.open(link())
    shows_question(screen)
    screen.keyboard.press("g")
    selected = screen.locator(".tile[aria-selected=true]")
    expect(selected).to_have_count(3)
    screen.keyboard.press("Space")
    expect(selected).to_have_count(2)
    screen.keyboard.press("Shift+ArrowRight")
    expect(selected).to_have_count(1)
    screen.keyboard.press("a")
    for key in "012":
        expect(screen.locator("#group")).to_have_value(key)
        expect(selected).to_have_count(3)
        screen.keyboard.press(key)
    shows_done(screen)
    assert sorted(asked.decisions().values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_what_somebody_else_answered_of_many_is_told_at_once(asked, screens, link):
    ids = asked.ask(9)
    screen = screens.open(link())
    shows_question(screen)
    screen.keyboard.press("g")
    expect(screen.locator(".tile")).to_have_count(3)
    for sample in ids[:4]:
        asked.ledger.answer(sample, 9, "Bo")
    screen.keyboard.press("5")
    expect(screen.locator("#stale-list li")).to_have_text(
        ["Bo said «digit 9» (just now)."] * 2
    )
    screen.get_by_role("button", name="Change all of them to «digit 5»").click()
    until(lambda: [asked.decisions()[ids[place]] for place in (0, 3, 6)] == [5] * 3)
    assert asked.decisions()[ids[1]] == 9


def test_a_hundred_classes_are_searched(asked, screens, link):
    asked.class_names = tuple(f"{word} kind" for word in words(100))
    ids = asked.ask(2)
    screen = screens.open(link())
    shows_question(screen)
    screen.keyboard.press("/")
    screen.keyboard.type("word 73x")
    screen.keyboard.press("Enter")
    until(lambda: asked.decisions() == {ids[0]: 73})
    screen.keyboard.press("2")
    until(lambda: asked.decisions().get(ids[1]) == 1)


def words(number: int) -> list[str]:
    return [f"word {place}x" for place in range(number)]


def test_the_guess_can_be_hidden_and_stays_so(asked, screens, link):
    asked.ask(2)
    screen = screens.open(link())
    expect(screen.locator("#hint")).to_contain_text("«digit 0»")
    expect(screen.locator(".guess")).to_have_count(1)
    screen.keyboard.press("h")
    screen.reload()
    expect(screen.locator("#hint")).to_contain_text("hidden")
    expect(screen.locator(".guess")).to_have_count(0)


def test_zoom_and_light_by_keyboard(asked, screens, link):
    asked.class_names = ("cat", "dog")
    asked.ask(1)
    screen = screens.open(link())
    shows_question(screen)
    picture = screen.locator("#image")

    def style() -> str:
        return picture.get_attribute("style")

    before = style()
    screen.keyboard.press("+")
    assert style() != before
    screen.keyboard.press("0")
    assert style() == before
    screen.keyboard.press("]")
    screen.keyboard.press(".")
    assert "brightness(110%) contrast(110%)" in style()
    expect(picture).to_have_class("enlarged")


def test_an_image_that_cannot_be_shown_is_said_and_set_aside(asked, screens, link):
    ids = asked.ask(0, a_png=b"<svg/>")
    screen = screens.open(link())
    expect(screen.locator("#no-image")).to_contain_text("no image that can be shown")
    screen.keyboard.press("x")
    until(lambda: asked.decisions() == {ids[0]: None})


def test_hostile_names_are_text(asked, screens, link):
    hostile = "<img src=x onerror=alert(1)>"
    asked.class_names = (hostile, "</script><script>alert(2)</script>")
    asked.ask(2)
    screen = screens.open(link(), hostile)
    class_button(screen, hostile).click()
    screen.keyboard.press("l")
    expect(screen.locator("#history")).to_contain_text(hostile)
    assert screen.locator("img[src=x]").count() == 0


def test_a_reader_hears_what_happened_and_what_comes(asked, screens, link):
    asked.ask(2)
    screen = screens.open(link())
    status = screen.get_by_role("status")
    class_button(screen, "digit 3").click()
    expect(status).to_contain_text("Labeled digit 3. Next: Asked in cycle 1")
    screen.keyboard.press("x")
    expect(status).to_contain_text("All is answered")
    expect(screen.locator("#waiting-title")).to_be_focused()


def test_all_is_reached_by_tab_and_the_focus_stays(asked, screens, link):
    asked.ask(5)
    screen = screens.open(link())
    shows_question(screen)
    button = class_button(screen, "digit 3")
    button.focus()
    screen.keyboard.press("Enter")
    until(lambda: len(asked.decisions()) == 1)
    expect(button).to_be_focused()
    reached = set()
    for _ in range(45):
        screen.keyboard.press("Tab")
        reached.add(
            screen.evaluate(
                "document.activeElement.id || document.activeElement.ariaLabel"
            )
        )
    assert {
        "to-grid",
        "to-history",
        "to-help",
        "stage",
        "zoom-in",
        "brightness",
    } <= reached
    assert {
        "skip",
        "cannot",
        "undo",
        "toggle-hint",
        "3rd of 5 in cycle 1, comes later",
    } <= reached


@pytest.mark.parametrize("grid", [False, True])
def test_a_phone_shows_all_without_moving_sideways(asked, screens, link, grid):
    asked.ask(12)
    screen = screens.open(link(), **PHONE)
    shows_question(screen)
    if grid:
        screen.get_by_role("button", name="Grid").tap()
        expect(screen.locator(".tile")).to_have_count(4)
    width = screen.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    for button in screen.locator("button:visible, select:visible, input:visible").all():
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 44, button.inner_text()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390 or button.evaluate(
            "node => Boolean(node.closest('#neighbors'))"
        )


def test_on_a_phone_nothing_covers_the_question(asked, screens, link):
    """Image, reason, guess and all ten classes are there without scrolling."""
    ids = asked.ask(3)
    screen = screens.open(link(), **PHONE)
    shows_question(screen)
    bar = screen.locator("#single .actions").bounding_box()
    for name in ("#stage", "#why", "#hint", "#classes"):
        box = screen.locator(name).bounding_box()
        assert box["y"] + box["height"] <= bar["y"] + 1, name
    assert screen.locator("#stage").bounding_box()["height"] >= 240
    class_button(screen, "digit 7").tap()
    until(lambda: asked.decisions() == {ids[0]: 7})
