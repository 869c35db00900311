"""Augmentations: small functions of an image and a random generator, with no state of their own.

Each draws its parameters with NumPy and applies them with a deterministic operation of Pillow. A recipe lists them by
name, with options where the defaults do not fit: ``augment: [pad_crop, flip]`` or
``augment: [{random_resized_crop: {scale: [0.25, 1.0]}}, flip]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from PIL import Image

from train.data.images import Box
from train.errors import near_matches


class Augmentation(Protocol):
    """Takes a decoded image ("L" or "RGB") and returns one of the same size and mode."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image: ...


@dataclass(frozen=True)
class PadCrop:
    """Pad with zeros on every side and cut the old size out at a random place.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.
    """

    padding: int = 4
    """pixels on each side"""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, upper = rng.integers(-self.padding, self.padding, size=2, endpoint=True).tolist()
        return image.crop((left, upper, left + image.width, upper + image.height))


@dataclass(frozen=True)
class Flip:
    """Mirror left and right."""

    probability: float = 0.5

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.probability else image


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut out a random part and resize it to the image size; taken from the encoded image, so it comes first.

    Source: Szegedy et al. 2014, "Going Deeper with Convolutions", section 6; the ten attempts and the fall-back to the
    centre are torchvision's.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    """least and greatest share of the area"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """least and greatest width over height, drawn evenly in its logarithm"""

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Return left, upper, right, lower in pixels (whole numbers)."""
        for _ in range(10):
            area = width * height * rng.uniform(self.scale[0], self.scale[1])
            ratio = np.exp(rng.uniform(np.log(self.ratio[0]), np.log(self.ratio[1])))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return (left, upper, left + w, upper + h)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        left, upper = (width - w) // 2, (height - h) // 2
        return (left, upper, left + w, upper + h)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        raise AssertionError("the view takes this crop from the encoded image")


AUGMENTATIONS: dict[str, type] = {"pad_crop": PadCrop, "flip": Flip, "random_resized_crop": RandomResizedCrop}


def build_augmentations(entries: Sequence[str | Mapping[str, Mapping[str, Any]]]) -> list[Augmentation]:
    """Return the augmentations that a recipe lists.

    Raises:
        ValueError: for an unknown name or option, with near matches.
    """
    built = []
    for entry in entries:
        name, options = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        if name not in AUGMENTATIONS:
            raise ValueError(f"unknown augmentation {name!r}; {near_matches(name, AUGMENTATIONS)}")
        allowed = [field.name for field in fields(AUGMENTATIONS[name])]
        unknown = [option for option in options if option not in allowed]
        if unknown:
            raise ValueError(f"{name} has no option {unknown[0]!r}; {near_matches(unknown[0], allowed)}")
        built.append(AUGMENTATIONS[name](**options))
    return built
