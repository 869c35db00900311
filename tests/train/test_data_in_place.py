"""An image's pixels without a copy."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from PIL import Image

from train.data import in_place


@pytest.mark.parametrize(
    ("size", "copied"), [((1, 1), False), ((33, 17), False), ((500, 375), False), ((2500, 2000), True)]
)
def test_the_pixels_are_the_images(size: tuple[int, int], copied: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    found = in_place.rgbx(image)
    np.testing.assert_array_equal(found[:, :, :3], pixels)
    image.putpixel((0, 0), (1, 2, 3))
    assert (found[0, 0, :3].tolist() == [1, 2, 3]) != copied, "above 16 MB Pillow holds an image in pieces"
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1


def test_they_outlive_the_image() -> None:
    found = [in_place.rgbx(Image.new("RGB", (500, 375), (i, i, i))) for i in range(50)]
    gc.collect()
    others = [Image.new("RGB", (500, 375), (99, 99, 99)) for _ in range(50)]
    assert (
        [pixels[:, :, :3].max() for pixels in found] == [pixels[:, :, :3].min() for pixels in found] == list(range(50))
    )
    assert len(others) == 50


def test_an_older_pillow_gives_a_copy() -> None:
    class Older(Image.Image):
        __arrow_c_array__ = property(lambda self: object().missing)  # type: ignore[assignment, attr-defined]

    image = Image.new("RGB", (5, 4), (1, 2, 3))
    image.__class__ = Older
    assert (in_place.rgbx(image)[:, :, :3] == (1, 2, 3)).all()
