"""Which images the labeling page shows, and what it says instead of the others."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from asked import Asked, Page
from PIL import Image

from fairfal_flwr.annotate import images

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"


def file_of(kind: str, mode: str = "L", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = BytesIO()
    Image.new(mode, size, 77 if mode in ("L", "I;16") else None).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """Return a PNG that says it has ten thousand million pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + checksum.to_bytes(4)

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


class Shown:
    """A client whose questions are about files with a given content."""

    def __init__(self, root, **files: bytes):
        self.asked = Asked(root)
        self.ids = self.asked.ask(0, **files)
        self.person = Page(root).person()

    def get(self, query: str = ""):
        return self.person.image(self.ids[0], query)


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("PNG", "png"),
        ("JPEG", "jpeg"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("BMP", "bmp"),
    ],
)
def test_what_browsers_know_they_get_as_it_is(tmp_path, kind, media_type):
    content = file_of(kind)
    shown = Shown(tmp_path / "state", a_bin=content).get()
    assert (shown.status_code, shown.content) == (200, content)
    assert shown.headers["content-type"] == f"image/{media_type}"


@pytest.mark.parametrize(
    "content",
    [file_of(kind) for kind in ("TIFF", "PPM", "JPEG2000")] + [file_of("JPEG", "CMYK")],
)
def test_other_images_become_png(tmp_path, content):
    shown = Shown(tmp_path / "state", a_png=content).get()
    assert shown.headers["content-type"] == "image/png"
    with Image.open(BytesIO(shown.content)) as image:
        assert (image.format, image.size) == ("PNG", (40, 30))


def test_sixteen_bits_keep_their_shades(tmp_path):
    """A radiograph's 4096 shades are not cut at 255."""
    ramp = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    buffer = BytesIO()
    Image.fromarray(ramp).save(buffer, "TIFF")
    shown = Shown(tmp_path / "state", a_tif=buffer.getvalue()).get()
    with Image.open(BytesIO(shown.content)) as image:
        seen = np.asarray(image.convert("L")).ravel().astype(int)
    assert (np.diff(seen) >= 0).all()
    assert (seen[0], seen[-1]) == (0, 255)
    assert abs(seen[32] - 128) < 6


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (SVG, "no image that can be shown"),
        (HTML, "no image that can be shown"),
        (file_of("EPS"), "no image that can be shown"),
        (file_of("PCX"), "no image that can be shown"),
        (b"", "no image that can be shown"),
        (file_of("PNG")[:60], "damaged"),
        (file_of("JPEG", size=(300, 300))[:400], "damaged"),
        (bomb(), "million pixels"),
    ],
)
@pytest.mark.parametrize("query", ["", "?thumb"])
def test_what_cannot_be_shown_is_a_sentence(tmp_path, content, reason, query):
    shown = Shown(tmp_path / "state", a_png=content).get(query)
    assert (shown.status_code, shown.headers["content-type"]) == (
        422,
        "application/json",
    )
    assert reason in shown.json()["error"]


def test_an_image_that_cannot_be_shown_can_be_set_aside(tmp_path):
    shown = Shown(tmp_path / "state", a_png=SVG)
    shown.person.answer(shown.person.queue(), None)
    assert shown.asked.decisions() == {shown.ids[0]: None}


def test_too_many_bytes_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 50)
    assert (
        "MiB" in Shown(tmp_path / "state", a_png=file_of("PNG")).get().json()["error"]
    )


@pytest.mark.parametrize(("query", "longest"), [("", 4096), ("?thumb", 160)])
def test_a_large_image_is_made_small(tmp_path, query, longest):
    content = file_of("PNG", size=(5000, 500))
    shown = Shown(tmp_path / "state", a_png=content).get(query)
    with Image.open(BytesIO(shown.content)) as image:
        assert max(image.size) == longest


def test_a_file_that_was_changed_is_not_shown(tmp_path):
    shown = Shown(tmp_path / "state", a_png=file_of("PNG"))
    (shown.asked.folder / "c1/a.png").write_bytes(file_of("PNG", size=(9, 9)))
    assert "has changed" in shown.get().json()["error"]
    (shown.asked.folder / "c1/a.png").unlink()
    assert "not there" in shown.get().json()["error"]


def test_a_question_without_a_file_is_said(tmp_path):
    shown = Shown(tmp_path / "state", a_png=file_of("PNG"))
    assert shown.get().status_code == 200
    shown.asked.files.clear()
    shown.asked.write_sheet()
    assert "left no file" in shown.get().json()["error"]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "c1/../../secret.png"]
)
@pytest.mark.parametrize("by_content", [True, False])
def test_a_sheet_leads_nowhere_else(tmp_path, name, by_content):
    (tmp_path / "secret.png").write_bytes(file_of("PNG"))
    shown = Shown(tmp_path / "state", a_png=file_of("PNG"))
    shown.asked.files[shown.ids[0]] = name
    shown.asked.write_sheet(by_content=by_content)
    assert shown.get().status_code == 422


def test_a_link_to_elsewhere_is_followed_only_to_what_was_asked_about(tmp_path):
    content = file_of("PNG")
    shown = Shown(tmp_path / "state", a_png=content)
    (tmp_path / "elsewhere.png").write_bytes(content)
    file = shown.asked.folder / "c1/a.png"
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere.png")
    assert shown.get().status_code == 200
    shown.asked.write_sheet(by_content=False)
    assert shown.get().status_code == 422


def test_a_hostile_file_name_is_only_a_name(tmp_path):
    name = "\"><img src=x onerror=alert(1)>'&; rm -rf"
    shown = Shown(tmp_path / "state", **{name: file_of("PNG")})
    assert shown.get().status_code == 200
