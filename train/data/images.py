"""From encoded bytes to pixels: decoded by Pillow, resampled by OpenCV.

Neither by ``mindspore.dataset.vision``: its eager operators hold Python's global lock while they work, so threads that
decode would stop the thread that trains; Pillow and OpenCV let go of it. Pillow rather than OpenCV decodes, since it
says what is wrong with a damaged file where OpenCV returns half an image; both use libjpeg-turbo. OpenCV resamples with
vector instructions, for which Pillow has none.
"""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
from PIL import Image

from train.data import in_place

# The loader's threads already use all cores.
cv2.setNumThreads(0)

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
    if image.mode.startswith(("I", "F")):  # Pillow's conversion would cut off what is above 255, nearly all of it
        raise BadImage(f"more than 8 bits a channel (Pillow's mode {image.mode}); save it with 8")
    try:
        image.load()
        return image if image.mode == MODES[channels] else image.convert(MODES[channels])
    except Exception as error:
        raise BadImage(_reason(error)) from error


def crop_and_resize(image: Image.Image, box: Box, size: int, channels: int) -> np.ndarray:
    """Return the part ``box`` of ``image``, rounded to whole pixels, as uint8 (size, size, channels).

    A part much larger than ``size`` is taken from a JPEG decoded at 1/2, 1/4 or 1/8, which costs a fraction; rounding
    then moves an edge by at most a quarter of a pixel of the result.
    """
    width, height = image.size
    left, upper, right, lower = box
    shrink = min(right - left, lower - upper) / (REDUCING_GAP * size)
    if shrink >= 2:
        image.draft(None, (int(width / shrink), int(height / shrink)))
        across, down = image.size[0] / width, image.size[1] / height
        box = (left * across, upper * down, right * across, lower * down)
    image = decode(image, channels)
    pixels = in_place.rgbx(image) if channels == 3 else to_pixels(image)
    left, upper, right, lower = map(round, box)
    pixels = _resize(pixels[upper : max(lower, upper + 1), left : max(right, left + 1)], size)
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB) if channels == 3 else pixels.reshape(size, size, channels)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Return a decoded image as uint8 (height, width, channels)."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return uint8 (height, width, 1 or 3) as a grey or RGB image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def to_planes(pixels: np.ndarray, planes: np.ndarray) -> None:
    """Write uint8 (height, width, channels) into ``planes``, contiguous uint8 (channels, height, width)."""
    cv2.split(pixels, list(planes))


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bilinear; what shrinks is interpolated at 2×2 (3×3, …) points for each pixel, whose means are taken.

    The points are at most 1.25 pixels of the original apart, so that none is passed over, as it would be by plain
    bilinear interpolation.
    """
    points = max(1, math.ceil(max(pixels.shape[:2]) / size - 0.25))
    if pixels.shape[:2] != (points * size, points * size):
        pixels = cv2.resize(pixels, (points * size, points * size), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA) if points > 1 else pixels


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
