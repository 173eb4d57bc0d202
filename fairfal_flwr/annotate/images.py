"""A question's image, as a browser may have it."""

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from fairfal_flwr.client.sheet import Sheet
from fairfal_flwr.files import identity_of

__all__ = ["Picture", "UnfitError", "picture_of"]

MOST_PIXELS = 100_000_000
MOST_BYTES = 256 * 2**20

# What a browser gets as it lies on the disk; anything else becomes a PNG.
SHOWN_AS_IS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}
UNDERSTOOD = (*SHOWN_AS_IS, "TIFF", "PPM", "JPEG2000")  # no programs, as EPS is one
PLAIN = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}  # modes that a PNG can hold as seen
DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # more shades than a screen has
LONGEST_SIDE = 4096
THUMB = 160


class UnfitError(Exception):
    """Why an image cannot be shown, in one sentence for the person who would see it."""


@dataclass(frozen=True)
class Picture:
    """Bytes and their type.

    Parameters
    ----------
    content : bytes
        Of an image file.
    media_type : str
        What it is.
    """

    content: bytes
    media_type: str


def picture_of(sheet: Sheet, sample_id: int, *, thumb: bool = False) -> Picture:
    """Return the image that a sample's question is about.

    Parameters
    ----------
    sheet : Sheet
        Says which file it is.
    sample_id : int
        The sample.
    thumb : bool
        Whether a small copy will do.

    Raises
    ------
    UnfitError
        If the file is missing, has changed, or is no image that is safe to show.
    """
    content = _read(sheet, sample_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=UNDERSTOOD) as image:
                return _shown(image, content, thumb)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnfitError(_TOO_LARGE) from None
    except Exception as error:  # Pillow's readers raise anything on a damaged file
        if isinstance(error, UnfitError):
            raise
        raise UnfitError(
            "This file is damaged or is no image that can be shown."
        ) from None


_TOO_LARGE = (
    f"This image has more than {MOST_PIXELS // 1_000_000} million pixels, which is too "
    "large to show."
)


def _read(sheet: Sheet, sample_id: int) -> bytes:
    """Return a file's content, if it is the one that was asked about."""
    name = sheet.files.get(sample_id)
    if name is None:
        raise UnfitError("The client left no file for this question.")
    path = _place(sheet, name)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise UnfitError(f"The file cannot be read: {reason}.") from None
    if len(content) > MOST_BYTES:
        raise UnfitError(f"This file has more than {MOST_BYTES >> 20} MiB.")
    if sheet.by_content and identity_of(name, content) != sample_id:
        raise UnfitError(
            "This file has changed since it was asked about, so it is not shown."
        )
    return content


def _place(sheet: Sheet, name: str) -> Path:
    """Return where a file is, which is inside the folder.

    A link to elsewhere may stand there where the content proves to be what was asked
    about.
    """
    relative = PurePosixPath(name)
    folder = Path(sheet.folder)
    path = folder / relative
    inside = not relative.is_absolute() and ".." not in relative.parts
    if inside and not sheet.by_content:
        inside = path.resolve().is_relative_to(folder.resolve())
    if not inside or not path.is_file():
        raise UnfitError("The file of this question is not there.")
    return path


def _shown(image: Image.Image, content: bytes, thumb: bool) -> Picture:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UnfitError(_TOO_LARGE)
    image.load()  # all of it: a file that ends early is damaged
    kind = image.format or ""
    fits = max(width, height) <= (THUMB if thumb else LONGEST_SIDE)
    if kind in SHOWN_AS_IS and image.mode in PLAIN and fits:
        return Picture(content, SHOWN_AS_IS[kind])
    return _as_png(image, THUMB if thumb else LONGEST_SIDE)


def _as_png(image: Image.Image, longest: int) -> Picture:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP:
        upright = _in_256_shades(upright)
    plain = upright if upright.mode in PLAIN else upright.convert("RGB")
    if max(plain.size) > longest:
        plain = plain.convert("RGBA" if "A" in plain.mode else "RGB")
        plain.thumbnail((longest, longest))
    buffer = BytesIO()
    plain.save(buffer, "PNG", compress_level=1)
    return Picture(buffer.getvalue(), "image/png")


def _in_256_shades(image: Image.Image) -> Image.Image:
    """Return an image whose darkest pixel is black and whose brightest is white."""
    values = np.asarray(image, dtype=np.float32)
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0, 0)
    share = (np.where(known, values, low) - low) / (high - low or 1)
    return Image.fromarray(np.rint(255 * share).astype(np.uint8))
