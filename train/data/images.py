"""From encoded bytes to pixels: JPEG decoded by simplejpeg, all else by Pillow, resampled by OpenCV.

Neither by ``mindspore.dataset.vision``: its eager operators hold Python's global lock while they work, so threads that
decode would stop the thread that trains; these three let go of it. simplejpeg gives the pixels that Pillow gives
(both use libjpeg-turbo) without copying them, and says what is wrong with a damaged file where OpenCV returns half an
image. OpenCV resamples with vector instructions, for which Pillow has none.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

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


class Jpeg(NamedTuple):
    """A JPEG of which the header has been read."""

    data: bytes
    size: tuple[int, int]
    """width, height in pixels"""


Stored = Jpeg | Image.Image
"""An image as a source gives it; its pixels may still be encoded."""


def open_image(data: bytes) -> Stored:
    """Read the header of an encoded image; the pixels are decoded by :func:`decode`."""
    if not data:
        raise BadImage("the file is empty")
    if data.startswith(b"\xff\xd8"):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except (ValueError, KeyError):  # damage, or a kind that only Pillow knows
            colours = ""
        if colours in ("YCbCr", "RGB", "Gray"):
            return Jpeg(data, (width, height))
    return _open_with_pillow(data)


def _open_with_pillow(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        raise BadImage("not an image that Pillow can read") from None
    except Exception as error:  # damaged headers raise anything, from struct.error to SyntaxError
        raise BadImage(_reason(error)) from error


def decode(image: Stored, channels: int, reduce: int = 1) -> np.ndarray:
    """Decode the pixels and bring grey, palette and CMYK images to the number of ``channels`` (1 or 3).

    Args:
        reduce: decode a JPEG at 1/``reduce`` (1, 2, 4 or 8) of its size; other formats stay as large as they are.

    Returns:
        uint8 (height, width, ``channels``); a fourth channel beside three has no meaning, OpenCV is faster with it.
    """
    if isinstance(image, Jpeg):
        if channels == 3:
            width, height = (-(-side // reduce) for side in image.size)
            try:
                return simplejpeg.decode_jpeg(image.data, "RGBX", min_width=width, min_height=height)
            except ValueError as error:
                # What is odd but whole is left to Pillow: bytes between two markers, of which ImageNet has some.
                if "premature end" in str(error).lower():
                    raise BadImage(_reason(error)) from error
        image = _open_with_pillow(image.data)
    if image.mode.startswith(("I", "F")):  # Pillow's conversion would cut off what is above 255, nearly all of it
        raise BadImage(f"more than 8 bits a channel (Pillow's mode {image.mode}); save it with 8")
    try:
        if reduce > 1:
            image.draft(None, (image.width // reduce, image.height // reduce))
        image.load()
        return to_pixels(image if image.mode == MODES[channels] else image.convert(MODES[channels]))
    except Exception as error:
        raise BadImage(_reason(error)) from error


def crop_and_resize(image: Stored, box: Box, size: int, channels: int) -> np.ndarray:
    """Return the part ``box`` of ``image``, rounded to whole pixels, as uint8 (size, size, channels).

    A part much larger than ``size`` is taken from a JPEG decoded at 1/2, 1/4 or 1/8, which costs a fraction; rounding
    then moves an edge by at most a quarter of a pixel of the result.
    """
    width, height = image.size
    left, upper, right, lower = box
    shrink = min(right - left, lower - upper) / (REDUCING_GAP * size)
    pixels = decode(image, channels, reduce=next((factor for factor in (8, 4, 2) if factor <= shrink), 1))
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    left, upper, right, lower = map(round, (left * across, upper * down, right * across, lower * down))
    pixels = _resize(pixels[upper : max(lower, upper + 1), left : max(right, left + 1)], size)
    return without_fourth(pixels.reshape(size, size, -1), channels)


def without_fourth(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Take off the channel without a meaning."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB) if pixels.shape[2] > channels else pixels


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
