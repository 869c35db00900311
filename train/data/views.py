"""What becomes of an image on its way into a batch: which part of it, at which size, changed how.

A :class:`View` is a pure function of an image and a random generator. The generator of an example is made from (seed,
epoch, position in the data set), so neither the number of ranks or threads nor a resumed run changes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from train.data.augment import Augmentation, RandomResizedCrop
from train.data.images import Box, crop_and_resize, decode, to_pixels


class View:
    """Bring an image to uint8 (size, size, channels).

    In training (a generator is given) the augmentations are applied in their order; without a random resized crop
    among them, and in evaluation, the image is taken whole: its shorter side becomes ``shorter_side`` pixels and the
    centre is cut out.

    Args:
        size: height and width of the result in pixels; None leaves images as they are.
        shorter_side: see above; None means ``size``.
        augmentations: applied in training only.
    """

    def __init__(
        self, size: int | None = None, shorter_side: int | None = None, augmentations: Sequence[Augmentation] = ()
    ):
        self.size = size
        self.shorter_side = shorter_side or size
        self.crop = next((one for one in augmentations if isinstance(one, RandomResizedCrop)), None)
        self.augmentations = [one for one in augmentations if one is not self.crop]

    def __call__(self, image: Image.Image, channels: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the image as uint8 (height, width, channels).

        Raises:
            BadImage: when the pixels cannot be decoded.
        """
        return self.cut(image, channels, self.box(image.size, rng), rng)

    def box(self, size: tuple[int, int], rng: np.random.Generator | None = None) -> Box | None:
        """Return which part of an image of ``size`` (width, height) is taken; None: all of it, as it is."""
        if self.size is None or self.shorter_side is None:
            return None
        if rng is not None and self.crop is not None:
            return self.crop.box(*size, rng)
        return centre_box(*size, 1.0 if rng is not None else self.size / self.shorter_side)

    def cut(
        self, image: Image.Image, channels: int, box: Box | None, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Do the rest of what a call does, where :meth:`box` has been called already with the same generator."""
        if box is None or self.size is None:
            pixels = to_pixels(decode(image, channels))
        else:
            pixels = crop_and_resize(image, box, self.size, channels)
        if rng is not None:
            for augmentation in self.augmentations:
                pixels = augmentation(pixels, rng)
        return pixels


def centre_box(width: int, height: int, share: float) -> Box:
    """Return the centred square whose side is ``share`` of the shorter side."""
    side = min(width, height) * share
    left, upper = (width - side) / 2, (height - side) / 2
    return (left, upper, left + side, upper + side)
