"""Somebody who answers what a page shows, and knows the truth."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from playwright.sync_api import Page

from fairfal_flwr.client.ledger import Ledger

SECONDS = float(os.environ.get("FAIRFAL_TEST_SECONDS", "480"))


def by_mouse(screen: Page, label: int) -> None:
    screen.locator("#classes button").nth(label).click()


def by_keyboard(screen: Page, label: int) -> None:
    key = screen.locator("#classes button").nth(label).locator("kbd").text_content()
    screen.keyboard.press(str(key))


# The first channel of the image that is shown, row by row; null while there is none.
PIXELS = """() => {
    const image = document.querySelector("#image");
    if (!image.checkVisibility() || !image.complete || !image.naturalWidth) return null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const all = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return Array.from(all.filter((_, place) => place % 4 === 0));
}"""


class Annotator:
    """Looks at the image that a screen shows and tells what it is, once each.

    Parameters
    ----------
    screen : Page
        A window of the labeling page.
    truth : Mapping of bytes to int
        The label of each image, by its pixels.
    press : callable
        How an answer is given.
    """

    def __init__(
        self,
        screen: Page,
        truth: Mapping[bytes, int],
        press: Callable[[Page, int], None],
    ) -> None:
        self.screen, self.truth, self.press = screen, truth, press
        self.answered: list[bytes] = []

    def look(self) -> None:
        """Answer the question that is shown, if there is a new one."""
        pixels = self.screen.evaluate(PIXELS)
        if pixels and (seen := bytes(pixels)) not in self.answered:
            self.answered.append(seen)
            self.press(self.screen, self.truth[seen])


def answer_until(annotators: list[Annotator], is_over: Callable[[], bool]) -> None:
    """Let all of them answer what comes until something is over."""
    deadline = time.monotonic() + SECONDS
    while not is_over():
        assert time.monotonic() < deadline, [len(a.answered) for a in annotators]
        for annotator in annotators:
            annotator.look()
        annotators[0].screen.wait_for_timeout(50)


def labels_of(ledger: Path, cycle: int) -> dict[int, int]:
    """Return what a cycle's training saw."""
    samples, labels = Ledger(ledger, None).labeled(cycle)
    return dict(zip(samples.tolist(), labels.tolist(), strict=True))
