"""What an encoded image becomes: the pixels that Pillow decodes, whichever library does it, or a word on why not."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.train.test_data_views import blurred_noise
from train.data.images import BadImage, Jpeg, decode, open_image


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def by_pillow(data: bytes, mode: str = "RGB", reduce: int = 1) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if reduce > 1:
        image.draft(None, (image.width // reduce, image.height // reduce))
    pixels = np.asarray(image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def read(data: bytes, channels: int = 3, reduce: int = 1) -> np.ndarray:
    return decode(open_image(data), channels, reduce)[:, :, :channels]


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(200, 150), (131, 97), (17, 33)])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}, {"quality": 20, "optimize": True},
     {"restart_marker_rows": 1}],
    ids=str,
)  # fmt: skip
def test_the_pixels_are_pillows(options: dict[str, object], size: tuple[int, int], reduce: int) -> None:
    data = encoded(blurred_noise(*size), **options)
    assert isinstance(open_image(data), Jpeg)
    np.testing.assert_array_equal(read(data, reduce=reduce), by_pillow(data, reduce=reduce))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_grey_and_cmyk_jpegs_too(mode: str, channels: int) -> None:
    data = encoded(blurred_noise(80, 60).convert(mode))
    for reduce in (1, 2):
        expected = by_pillow(data, {1: "L", 3: "RGB"}[channels], reduce)
        np.testing.assert_array_equal(read(data, channels, reduce), expected)


def test_a_jpeg_that_stores_red_green_and_blue() -> None:
    data = encoded(blurred_noise(80, 60), keep_rgb=True)
    np.testing.assert_array_equal(read(data), by_pillow(data))


def with_bytes_between_markers(data: bytes) -> bytes:
    """As in some of ImageNet's files: libjpeg warns and goes on."""
    first_table = data.index(b"\xff\xdb")
    return data[:first_table] + b"\x00\x11\x22" + data[first_table:]


def with_bytes_before_the_end(data: bytes) -> bytes:
    return data[:-2] + b"\x55" * 20 + data[-2:]


@pytest.mark.parametrize("change", [with_bytes_between_markers, with_bytes_before_the_end, lambda data: data + b"more"])
def test_bytes_that_harm_nothing_are_accepted(change: object) -> None:
    data = encoded(blurred_noise(80, 60))
    np.testing.assert_array_equal(read(change(data)), read(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_truncated_jpeg_is_refused_wherever_it_ends(options: dict[str, object]) -> None:
    data = encoded(blurred_noise(80, 60), **options)
    for change in (lambda whole: whole, with_bytes_between_markers):
        for kept in (*range(0, len(data), 97), len(data) - 2, len(data) - 1):
            with pytest.raises(BadImage):
                read(change(data)[:kept])


def test_a_scan_that_ends_early_is_refused() -> None:
    """The end marker is there, so nothing seems to be missing; Pillow alone would fill the rest with grey."""
    data = encoded(blurred_noise(80, 60))
    middle = 2 * len(data) // 3
    with pytest.raises(BadImage, match="premature end"):
        read(data[:middle] + b"\xff\xd9")


def test_damage_is_told_in_one_line() -> None:
    with pytest.raises(BadImage) as caught:
        read(b"\xff\xd8\xff" + b"\x00" * 100)
    assert re.fullmatch(r"[^\n]+", str(caught.value))
