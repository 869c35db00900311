"""Augmentations that move pixels or paint over them: pad and crop, flip, erase."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from train.data.augment import CHECKED, Fractions, Ratios, draw_rectangle

Probability = Annotated[float, Field(ge=0, le=1)]
BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}


@dataclass(frozen=True, config=CHECKED)
class PadCrop:
    """Pad every side and cut the old size out at a random place.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.
    """

    padding: Annotated[int, Field(ge=1)] = 4
    """pixels on each side"""
    padding_mode: Literal["constant", "reflect"] = "constant"
    """black, or the image mirrored at its outermost pixels, which keeps the statistics of the unpadded images that
    evaluation meets"""
    moves: ClassVar = "alike"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        side = self.padding
        left, upper = rng.integers(2 * side, size=2, endpoint=True).tolist()
        height, width = image.shape[:2]
        if image.dtype == np.uint8 and image.ndim == 3:
            padded = cv2.copyMakeBorder(image, side, side, side, side, BORDERS[self.padding_mode])
        else:
            padded = np.pad(image, [(side, side)] * 2 + [(0, 0)] * (image.ndim - 2), mode=self.padding_mode)
        return padded[upper : upper + height, left : left + width].reshape(image.shape)


@dataclass(frozen=True, config=CHECKED)
class Flip:
    """Mirror left and right."""

    probability: Probability = 0.5
    moves: ClassVar = "alike"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return image
        if image.dtype == np.uint8 and image.ndim == 3:
            return cv2.flip(image, 1).reshape(image.shape)
        return image[:, ::-1]


@dataclass(frozen=True, config=CHECKED)
class RandomErasing:
    """Fill a random rectangle with noise, each value drawn evenly from 0 to 255.

    Source: Zhong et al. 2017, "Random Erasing Data Augmentation" (RE-R), with its ranges.
    """

    probability: Probability = 0.5
    scale: Fractions = (0.02, 0.4)
    """least and greatest fraction of the area"""
    ratio: Ratios = (0.3, 10 / 3)
    """least and greatest width over height, drawn evenly in its logarithm"""
    moves: ClassVar = "no"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return image
        for _ in range(10):
            part = draw_rectangle(image.shape[1], image.shape[0], self.scale, self.ratio, rng)
            if part is not None:
                left, upper, right, lower = part
                image = image.copy()
                image[upper:lower, left:right] = rng.integers(
                    0, 256, (lower - upper, right - left, image.shape[2]), np.uint8
                )
                break
        return image
