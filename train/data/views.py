"""What becomes of an image on its way into a batch: which part of it, at which size, changed how.

A :class:`View` is a pure function of an image and a random generator. The generator of an example is made from (seed,
epoch, position in the data set), so neither the number of ranks or threads nor a resumed run changes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from train.data.augment import Augmentation, RandomResizedCrop
from train.data.images import Box, crop_and_resize, decode


class View:
    """Bring an image to uint8 (channels, size, size).

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
        """Return the image as uint8 (channels, height, width).

        Raises:
            BadImage: when the pixels cannot be decoded.
        """
        if self.size is None or self.shorter_side is None:
            image = decode(image, channels)
        else:
            if rng is not None and self.crop is not None:
                box = self.crop.box(*image.size, rng)
            elif rng is not None:
                box = centre_box(*image.size, 1.0)
            else:
                box = centre_box(*image.size, self.size / self.shorter_side)
            image = crop_and_resize(image, box, self.size, channels)
        if rng is not None:
            for augmentation in self.augmentations:
                image = augmentation(image, rng)
        return np.stack([np.asarray(band) for band in image.split()])


def centre_box(width: int, height: int, share: float) -> Box:
    """Return the centred square whose side is ``share`` of the shorter side."""
    side = min(width, height) * share
    left, upper = (width - side) / 2, (height - side) / 2
    return (left, upper, left + side, upper + side)
