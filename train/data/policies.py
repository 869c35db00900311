"""TrivialAugment and RandAugment, and the operations that they draw from, each with a strength from 0 to 1.

Deterministic, with Pillow: ``mindspore.dataset.vision`` has both policies, but draws inside, from a generator that
belongs to the process and not to the example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field
from pydantic.dataclasses import dataclass

from train.data.augment import CHECKED
from train.data.images import to_pixels

BINS = 31
"""Strengths are 0, 1/30, … 1, as in torchvision."""

# The greatest strength of each operation with a range. Translation: fraction of the side; for the wide space pixels.
# Posterize: bits taken away. Signed operations turn either way.
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
WIDE: Mapping[str, float] = {
    **{"shear_x": 0.99, "shear_y": 0.99, "translate_x": 32.0, "translate_y": 32.0, "rotate": 135.0},
    **dict.fromkeys(ENHANCERS, 0.99),
    **{"posterize": 6.0, "solarize": 255.0},
}
NARROW: Mapping[str, float] = {
    **{"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0},
    **dict.fromkeys(ENHANCERS, 0.9),
    **{"posterize": 4.0, "solarize": 255.0},
}
OPERATIONS = ("identity", *WIDE, "autocontrast", "equalize")


def draw_operation(rng: np.random.Generator) -> str:
    """Return the name of one operation, all equally likely."""
    return OPERATIONS[int(rng.integers(len(OPERATIONS)))]


def apply(space: Mapping[str, float], name: str, image: Image.Image, strength: float, negative: bool) -> Image.Image:
    """Return ``image`` ("L" or "RGB") after the operation ``name``; what is moved in from outside is black.

    Args:
        space: the greatest strength of each operation, :data:`WIDE` or :data:`NARROW`.
        strength: 0 to 1, as a fraction of it.
        negative: the direction of a signed operation.
    """
    value = space.get(name, 0.0) * strength
    signed = -value if negative else value
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1.0 + signed)
    if name in ("shear_x", "shear_y", "translate_x", "translate_y"):
        # Of the coefficients that give the place of a pixel before: x from x, y, 1 and y from x, y, 1.
        coefficients = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        place = {"shear_x": 1, "shear_y": 3, "translate_x": 2, "translate_y": 5}[name]
        if name.startswith("translate"):
            signed = float(round(signed if space is WIDE else signed * image.size[place == 5]))
        coefficients[place] = signed
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)
    if name == "rotate":
        return image.rotate(signed)
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(value))
    if name == "solarize":
        return ImageOps.solarize(image, round(255 - value))
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    return ImageOps.equalize(image) if name == "equalize" else image


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return uint8 (height, width, 1 or 3) as a grey or RGB image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


@dataclass(frozen=True, config=CHECKED)
class TrivialAugment:
    """Apply one random operation at a random strength.

    Source: Müller and Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation"; wide space.
    """

    moves: ClassVar = "refuse"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        name = draw_operation(rng)
        strength = int(rng.integers(BINS)) / (BINS - 1)
        return to_pixels(apply(WIDE, name, to_image(image), strength, bool(rng.integers(2))))


@dataclass(frozen=True, config=CHECKED)
class RandAugment:
    """Apply ``operations`` random operations, one after the other, at one strength.

    Source: Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space", with
    torchvision's 31 strengths.
    """

    operations: Annotated[int, Field(ge=1)] = 2
    magnitude: Annotated[int, Field(ge=0, lt=BINS)] = 9
    moves: ClassVar = "refuse"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        changed = to_image(image)
        for _ in range(self.operations):
            name, negative = draw_operation(rng), bool(rng.integers(2))
            changed = apply(NARROW, name, changed, self.magnitude / (BINS - 1), negative)
        return to_pixels(changed)
