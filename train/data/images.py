"""From encoded bytes to pixels: JPEG decoded by simplejpeg, all else by Pillow, resampled by OpenCV.

Neither by ``mindspore.dataset.vision``: its eager operators hold Python's global lock while they work, so threads that
decode would stop the thread that trains; these three let go of it. simplejpeg gives the pixels that Pillow gives
(both use libjpeg-turbo) without copying them, and says what is wrong with a damaged file where OpenCV returns half an
image. OpenCV resamples with vector instructions, for which Pillow has none.
"""

from __future__ import annotations

import io
import math
import threading
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image

# What is read: Pillow's name of each format, and the endings by which its files are found. Any of these formats may
# stand behind any of the endings (ImageNet has a PNG called .JPEG), and no other: Pillow would start Ghostscript for
# PostScript, whatever the file is called.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "GIF": (".gif",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MODES = {1: "L", 3: "RGB"}
# A reduced JPEG is decoded only while it stays this many times larger than the image made from it, so that the
# final resampling decides the pixels (as Pillow's own `reducing_gap`).
REDUCING_GAP = 2.0
# A block of 64 pixels takes at least one bit of a JPEG.
MOST_PIXELS_A_BYTE = 8 * 64
# Each thread decodes into memory of its own: fresh memory for each image would cost a quarter of decoding it.
KEPT_BYTES = 32 << 20
_scratch = threading.local()

Box = tuple[float, float, float, float]
"""left, upper, right, lower in pixels"""


class BadImage(Exception):
    """This image cannot be decoded; the message says why, not which."""


class Rules(NamedTuple):
    """How every image is read."""

    upright: bool = True
    """Turn and mirror it as its EXIF orientation says."""
    background: tuple[int, int, int] | None = (255, 255, 255)
    """The colour (red, green, blue) behind what is transparent; None: the colours stored there, whatever they are."""
    max_pixels: int = 100_000_000


DEFAULT_RULES = Rules()


@dataclass(frozen=True)
class Jpeg:
    """A JPEG of which the header has been read."""

    data: bytes
    size: tuple[int, int]
    """width, height in pixels, as stored"""


Stored = Jpeg | Image.Image | np.ndarray
"""An image as a source gives it; its pixels may still be encoded, or be uint8 (height, width, channels)."""


def open_image(data: bytes) -> Stored:
    """Read the header of an encoded image.

    Raises:
        BadImage: when it is none of ``FORMATS``, or its header is damaged or cannot be true.
    """
    if not data:
        raise BadImage("the file is empty")
    if data.startswith(b"\xff\xd8"):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except (ValueError, KeyError):  # damage, or a kind that only Pillow knows
            colours = ""
        if colours in ("YCbCr", "RGB", "Gray"):
            if width * height > MOST_PIXELS_A_BYTE * len(data):
                raise BadImage(f"its header says {width}x{height} pixels, which {len(data)} bytes cannot hold")
            return Jpeg(data, (width, height))
    return _open_with_pillow(data)


def _open_with_pillow(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except Image.UnidentifiedImageError:
        raise BadImage(f"its content is no image of a format that is read ({', '.join(FORMATS)})") from None
    except Exception as error:  # damaged headers raise anything, from struct.error to SyntaxError
        raise BadImage(_reason(error)) from error


class Picture:
    """An image as :class:`Rules` want it seen; its pixels are decoded by :meth:`pixels`.

    Raises:
        BadImage: when it has more than ``rules.max_pixels``.
    """

    def __init__(self, stored: Stored, rules: Rules = DEFAULT_RULES):
        width, height = stored.shape[1::-1] if isinstance(stored, np.ndarray) else stored.size
        if width * height > rules.max_pixels:
            raise BadImage(f"{width}x{height} pixels are more than data.max_pixels={rules.max_pixels}")
        self.stored = stored
        self.rules = rules
        self.orientation = _orientation(stored)
        self.size = (height, width) if rules.upright and self.orientation >= 5 else (width, height)
        """Width and height in pixels."""
        self.transparent = False
        """Whether a pixel is not opaque; known once it has been decoded."""

    def pixels(self, channels: int, reduce: int = 1) -> np.ndarray:
        """Decode the pixels and bring grey, palette and CMYK images to the number of ``channels`` (1 or 3).

        An array has its own number of channels already.

        Args:
            reduce: decode a JPEG at 1/``reduce`` (1, 2, 4 or 8) of its size; other formats stay as large as they are.

        Returns:
            uint8 (height, width, ``channels``), valid until this thread decodes again; a fourth channel beside three
            has no meaning, OpenCV is faster with it.
        """
        pixels = self._decode(channels, reduce)
        if self.orientation == 1 or not self.rules.upright:
            return pixels
        return np.ascontiguousarray(_turned(pixels, self.orientation))

    def _decode(self, channels: int, reduce: int) -> np.ndarray:
        image = self.stored
        if isinstance(image, np.ndarray):
            return image
        if isinstance(image, Jpeg):
            if channels == 3:
                try:
                    return _decode_jpeg(image, reduce)
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
            if image.has_transparency_data:
                image = self._without_transparency(image)
            return to_pixels(image if image.mode == MODES[channels] else image.convert(MODES[channels]))
        except Exception as error:
            raise BadImage(_reason(error)) from error

    def _without_transparency(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGBA")
        self.transparent = int(np.asarray(image.getchannel("A")).min()) < 255
        if not self.transparent or self.rules.background is None:
            return image.convert("RGB")
        canvas = Image.new("RGBA", image.size, (*self.rules.background, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")


def _decode_jpeg(jpeg: Jpeg, reduce: int) -> np.ndarray:
    width, height = (-(-side // reduce) for side in jpeg.size)
    memory = None
    if 4 * width * height <= KEPT_BYTES:
        memory = getattr(_scratch, "memory", None)
        if memory is None or len(memory) < 4 * width * height:
            memory = _scratch.memory = np.empty(4 * width * height, np.uint8)
    return simplejpeg.decode_jpeg(jpeg.data, "RGBX", min_width=width, min_height=height, buffer=memory)


def _orientation(stored: Stored) -> int:
    """Return the EXIF orientation, 1 to 8; where there is none, and of a TIFF, which Pillow turns, 1: it is upright."""
    if isinstance(stored, np.ndarray):
        return 1
    try:
        if isinstance(stored, Jpeg):
            if stored.data.find(b"Exif\0\0", 0, 1 << 16) < 0:  # one of the first segments, each of at most 64 kB
                return 1
            stored = _open_with_pillow(stored.data)
        known = "exif" in stored.info and stored.format != "TIFF"
        found = stored.getexif().get(ExifTags.Base.Orientation, 1) if known else 1
    except Exception:  # damaged notes about a photograph do not make its pixels worse
        return 1
    return found if found in range(1, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return what is stored in an ``orientation`` of EXIF (tag 274) as it is to be seen."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # Rows are stored from the bottom up, columns from the right to the left.
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def crop_and_resize(image: Picture | Stored, box: Box, size: int, channels: int) -> np.ndarray:
    """Return the part ``box`` of ``image``, rounded to whole pixels, as uint8 (size, size, channels).

    A part much larger than ``size`` is taken from a JPEG decoded at 1/2, 1/4 or 1/8, which costs a fraction; rounding
    then moves an edge by at most a quarter of a pixel of the result.
    """
    picture = image if isinstance(image, Picture) else Picture(image)
    width, height = picture.size
    left, upper, right, lower = box
    shrink = min(right - left, lower - upper) / (REDUCING_GAP * size)
    pixels = picture.pixels(channels, reduce=next((factor for factor in (8, 4, 2) if factor <= shrink), 1))
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    left, upper, right, lower = map(round, (left * across, upper * down, right * across, lower * down))
    pixels = _resize(pixels[upper : max(lower, upper + 1), left : max(right, left + 1)], size)
    return without_fourth(pixels.reshape(size, size, -1), channels)


def cut_map(array: np.ndarray, picture: Picture, box: Box, size: int) -> np.ndarray:
    """Return the part ``box`` of an array (…, height, width) that lies over ``picture``, as (…, size, size): of each
    place the nearest value. One that has this size already was made for the result.

    Raises:
        BadImage: when it has the size of neither.
    """
    width, height = picture.size
    if array.shape[-2:] != (height, width):
        if array.shape[-2:] == (size, size):
            return array
        raise BadImage(f"its target is {list(array.shape)} for an image of {height}x{width}")
    left, upper, right, lower = map(round, box)
    rows, columns = (
        first + ((np.arange(size) + 0.5) * max(last - first, 1) / size).astype(int)
        for first, last in ((upper, lower), (left, right))
    )
    return array[..., rows[:, None], columns]


def without_fourth(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Take off the channel without a meaning."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB) if pixels.shape[2] > channels else pixels


def to_pixels(image: Image.Image) -> np.ndarray:
    """Return a decoded image as uint8 (height, width, channels)."""
    return np.asarray(image).reshape(image.height, image.width, -1)


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


def set_up_libraries() -> None:
    """Set what OpenCV and Pillow know once a process; whoever reads many images calls it first."""
    cv2.setNumThreads(0)  # the loader's threads already use all cores
    Image.MAX_IMAGE_PIXELS = None  # its place is taken by `Rules.max_pixels`, which the recipe sets


def _reason(error: Exception) -> str:
    if "MAX_TEXT_CHUNK" in str(error) or "text memory" in str(error).lower():
        return "its text or colour profile is larger than 1 MiB"
    return " ".join(str(error).split()) or type(error).__name__
