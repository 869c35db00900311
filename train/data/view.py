"""Which part of an image is taken, at which size, and how it is changed.

A :class:`View` is a pure function of an example and a random generator. The generator of an example is made from (seed,
epoch, position in the data set), so neither the number of ranks or threads nor a resumed run changes a pixel.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from train.data.augment import Augmentation, Own, RandomResizedCrop
from train.data.images import DEFAULT_RULES, Box, Picture, Rules, crop_and_resize, cut_map, without_fourth

log = logging.getLogger(__name__)


class View:
    """Bring the images of an example to uint8 (size, size, channels), and with them the targets that lie over them.

    In training (a generator is given) the augmentations are applied in their order; without a random resized crop
    among them, and in evaluation, the image is taken whole: its shorter side becomes ``shorter_side`` pixels and the
    centre is cut out.

    Args:
        size: height and width of the result in pixels; None leaves images as they are.
        shorter_side: see above; None means ``size``.
        augmentations: applied in training only.
        rules: how an image is read.
    """

    def __init__(
        self,
        size: int | None = None,
        shorter_side: int | None = None,
        augmentations: Sequence[Augmentation | Own] = (),
        rules: Rules = DEFAULT_RULES,
    ):
        self.size = size
        self.rules = rules
        self._said: set[str] = set()
        self.centre = size / shorter_side if size and shorter_side else 1.0
        """In evaluation, the side of what is cut out as a fraction of the shorter side."""
        self.crop: RandomResizedCrop | None = next((a for a in augmentations if isinstance(a, RandomResizedCrop)), None)
        self.augmentations: list[Any] = [one for one in augmentations if one is not self.crop]

    def cut(
        self,
        pictures: Sequence[Picture],
        maps: Sequence[np.ndarray],
        channels: int,
        rng: np.random.Generator | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Cut the same part out of all images of an example and its ``maps``, (…, height, width) of any dtype.

        What a map holds may be a number of a class, so it is resized by taking the nearest.
        """
        if self.size is None:
            return [without_fourth(one.pixels(channels), channels) for one in pictures], list(maps)
        box = self.box(pictures[0].size, rng)
        images = [crop_and_resize(picture, box, self.size, channels) for picture in pictures]
        return images, [cut_map(one, pictures[0], box, self.size) for one in maps]

    def say_once(self, pictures: Sequence[Picture], name: str) -> None:
        """Warn, once for each kind, of what the recipe may want otherwise; ``name`` is the first example's."""
        turned = any(one.orientation > 1 for one in pictures)
        transparent = any(one.transparent for one in pictures)
        done = "are turned" if self.rules.upright else "stay as stored"
        background = self.rules.background or "the colours stored there"
        for key, met, words in (
            ("orientation", turned, f"an EXIF orientation: such images {done}"),
            ("background", transparent, f"transparent places: they get {background}"),
        ):
            if met and key not in self._said:
                self._said.add(key)
                log.warning("%s has %s; data.%s changes that", name, words, key)

    def box(self, size: tuple[int, int], rng: np.random.Generator | None = None) -> Box:
        """Return which part of an image of ``size`` (width, height) is taken."""
        if rng is not None and self.crop is not None:
            return self.crop.box(*size, rng)
        return centre_box(*size, self.centre if rng is None else 1.0)


def centre_box(width: int, height: int, fraction: float) -> Box:
    """Return the centred square whose side is ``fraction`` of the shorter side."""
    side = min(width, height) * fraction
    left, upper = (width - side) / 2, (height - side) / 2
    return (left, upper, left + side, upper + side)
