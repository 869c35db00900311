"""From encoded bytes to pixels, with Pillow.

Pillow and not ``mindspore.dataset.vision``: an eager operator of the latter holds Python's global lock while it works,
so threads that decode would stop the thread that trains; Pillow lets go of it. Both decode with libjpeg-turbo.
"""

from __future__ import annotations

import io

from PIL import Image

MODES = {1: "L", 3: "RGB"}
# A reduced JPEG is decoded only while it stays this many times larger than the image made from it, so that the
# final resampling decides the pixels (as Pillow's own `reducing_gap`).
REDUCING_GAP = 2.0

Box = tuple[float, float, float, float]
"""left, upper, right, lower in pixels"""


class BadImage(Exception):
    """This image cannot be decoded; the message says why, not which."""


def open_image(data: bytes) -> Image.Image:
    """Read the header of an encoded image; the pixels are decoded by :func:`decode`."""
    if not data:
        raise BadImage("the file is empty")
    try:
        return Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        raise BadImage("not an image that Pillow can read") from None
    except Exception as error:  # damaged headers raise anything, from struct.error to SyntaxError
        raise BadImage(_reason(error)) from error


def decode(image: Image.Image, channels: int) -> Image.Image:
    """Decode the pixels and bring grey, palette and CMYK images to the number of ``channels`` (1 or 3)."""
    try:
        image.load()
        return image if image.mode == MODES[channels] else image.convert(MODES[channels])
    except Exception as error:
        raise BadImage(_reason(error)) from error


def crop_and_resize(image: Image.Image, box: Box, size: int, channels: int) -> Image.Image:
    """Return the part ``box`` of ``image`` as (size, size), bilinear with antialiasing.

    A part much larger than ``size`` is taken from a JPEG decoded at 1/2, 1/4 or 1/8, which costs a fraction.
    """
    width, height = image.size
    left, upper, right, lower = box
    shrink = min(right - left, lower - upper) / (REDUCING_GAP * size)
    if shrink >= 2:
        image.draft(None, (int(width / shrink), int(height / shrink)))
        across, down = image.size[0] / width, image.size[1] / height
        box = (left * across, upper * down, right * across, lower * down)
    image = decode(image, channels)
    if image.size == (size, size) and box == (0, 0, size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
