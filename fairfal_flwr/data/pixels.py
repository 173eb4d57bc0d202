"""One explicit rule for image files, sizes and channels.

- A file is grey or color by its mode; nothing is converted unless `data.channels` says
  so. Transparency is dropped; pixels of more than 8 bits are refused.
- `data.channels = 3` repeats a grey image three times; 1 makes a color image grey by
  the luma of ITU-R 601.
- `data.image-size = N` resizes to N x N pixels, bilinear with antialiasing, whatever
  the shape was.
"""

import struct
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["decode", "in_channels", "open_image", "resize"]

_CHANNELS = {
    **dict.fromkeys(("1", "L", "LA"), 1),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), 3),
}
_LUMA = (0.299, 0.587, 0.114)
_CHUNK = 4096


def open_image(content: bytes) -> Tensor:
    """Read what an image file holds.

    Returns
    -------
    Tensor, shape (1 or 3, height, width)
        uint8.

    Raises
    ------
    OSError, ValueError, SyntaxError, struct.error, EOFError
        If it is no image, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(content)) as image:
            return decode(image)
    except UnidentifiedImageError:
        raise ValueError("it is no image") from None
    except (Image.DecompressionBombError, struct.error) as error:
        raise ValueError(str(error)) from None


def decode(image: "Image") -> Tensor:
    """Return the pixels of a picture, upright as its EXIF data say.

    Raises
    ------
    ValueError
        If its pixels have more than 8 bits.
    """
    from PIL import ImageOps

    channels = _CHANNELS.get(image.mode)
    if channels is None:
        raise ValueError(
            f"its pixels are of the kind {image.mode!r}; convert it to 8 bits, grey or "
            "RGB"
        )
    upright = ImageOps.exif_transpose(image)
    pixels = np.array(upright.convert("L" if channels == 1 else "RGB"))
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def in_channels(images: Tensor, channels: int) -> Tensor:
    """Return images with 1 or 3 channels; 0 leaves them as they are.

    Parameters
    ----------
    images : Tensor, shape (N, channels, height, width)
        uint8, with 1 or 3 channels.
    channels : int
        0, 1 or 3.
    """
    if channels in (0, images.shape[1]):
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
    grey = [
        (chunk * luma).sum(dim=1, keepdim=True).round().to(torch.uint8)
        for chunk in torch.split(images, _CHUNK)
    ]
    return torch.cat(grey) if grey else images[:, :1]


def resize(images: Tensor, size: int) -> Tensor:
    """Return images of size x size pixels; 0 leaves them as they are.

    Parameters
    ----------
    images : Tensor, shape (N, channels, height, width)
        uint8.
    size : int
        Of both sides.
    """
    if size == 0 or images.shape[2:] == (size, size):
        return images
    resized = [
        torch.nn.functional.interpolate(
            chunk, size=(size, size), mode="bilinear", antialias=True
        )
        for chunk in torch.split(images, _CHUNK)
        if len(chunk)
    ]
    return torch.cat(resized) if resized else images.new_empty((0, 1, size, size))
