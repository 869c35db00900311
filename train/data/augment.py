"""Augmentations: small functions of an image and a random generator, with no state of their own.

Each draws its parameters with NumPy and applies them with a deterministic operation. A recipe lists them by name, with
options where the defaults do not fit: ``augment: [pad_crop, flip]`` or
``augment: [{random_resized_crop: {scale: [0.25, 1.0]}}, flip]``.

A user's own is listed as ``{"my_augment:jitter": {strength: 0.1}}``: a function of an
:class:`train.data.example.Example` and a generator, and of its options, that returns the changed example. Images in it
are uint8 (height, width, channels), all else is as its source gives it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from train.data.images import Box
from train.runtime.errors import near_matches
from train.runtime.keys import import_from, in_words, is_reference, load_part

Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("the smaller value must come first")
    return limits


Fractions = Annotated[tuple[Fraction, Fraction], AfterValidator(_rising)]
Ratios = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


class Augmentation(Protocol):
    """Takes an image, uint8 (height, width, channels), and returns another of this shape; its input stays as it is."""

    moves: ClassVar[Literal["no", "alike", "refuse"]]
    """What becomes of targets that lie over the image, as masks do: they stay, or are moved by the same draws (called
    with their values, (height, width, …) of any dtype), or cannot be had together with it."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


class Own:
    """A user's function of a whole example."""

    def __init__(self, reference: str, options: Mapping[str, Any]):
        self.reference = reference
        self.options = options

    @functools.cached_property
    def function(self) -> Any:
        """What it refers to; its module is imported when examples are, not while a recipe is read."""
        return load_part(self.reference, self.options, "data.augment", "example", "generator")


def alike(
    augmentation: Augmentation, images: Sequence[np.ndarray], maps: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Change all images of an example, and its ``maps``, (…, height, width), by the same draws."""
    if len(images) == 1 and not maps:
        return [augmentation(images[0], rng)], []
    maps = list(maps)
    state = rng.bit_generator.state

    def again(array: np.ndarray) -> np.ndarray:
        rng.bit_generator.state = state
        return augmentation(array, rng)

    if augmentation.moves == "alike":
        maps = [np.moveaxis(again(np.moveaxis(one, (-2, -1), (0, 1))), (0, 1), (-2, -1)) for one in maps]
    return [again(image) for image in images], maps


@dataclass(frozen=True, config=CHECKED)
class RandomResizedCrop:
    """Cut out a random part and resize it to the image size; taken from the encoded image, so it stands first.

    Source: Szegedy et al. 2014, "Going Deeper with Convolutions", section 6; the ten attempts and the fall-back to the
    centre are torchvision's.
    """

    scale: Fractions = (0.08, 1.0)
    """least and greatest fraction of the area"""
    ratio: Ratios = (3 / 4, 4 / 3)
    """least and greatest width over height, drawn evenly in its logarithm"""
    moves: ClassVar = "alike"

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Return left, upper, right, lower in pixels (whole numbers)."""
        for _ in range(10):
            part = draw_rectangle(width, height, self.scale, self.ratio, rng)
            if part is not None:
                return part
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        left, upper = (width - w) // 2, (height - h) // 2
        return (left, upper, left + w, upper + h)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise AssertionError("the view takes this crop from the encoded image")


def draw_rectangle(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Draw a rectangle inside (width, height) by its fraction of the area and its shape; None where it does not fit."""
    area = width * height * rng.uniform(scale[0], scale[1])
    shape = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
    w, h = round(np.sqrt(area * shape)), round(np.sqrt(area / shape))
    if not (0 < w <= width and 0 < h <= height):
        return None
    left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return (left, upper, left + w, upper + h)


AUGMENTATIONS = {
    "random_resized_crop": "train.data.augment:RandomResizedCrop",
    "pad_crop": "train.data.geometry:PadCrop",
    "flip": "train.data.geometry:Flip",
    "trivial_augment": "train.data.policies:TrivialAugment",
    "rand_augment": "train.data.policies:RandAugment",
    "random_erasing": "train.data.geometry:RandomErasing",
}


def name_of(augmentation: Augmentation) -> str:
    """Return what a recipe calls it."""
    return next(name for name, place in AUGMENTATIONS.items() if isinstance(augmentation, import_from(place)))


def build_augmentations(entries: Sequence[str | Mapping[str, Mapping[str, Any]]]) -> list[Augmentation | Own]:
    """Return the augmentations that a recipe lists.

    Raises:
        ValueError: for an unknown name or option, with near matches; a value out of range; a crop that is not first.
    """
    built = [_build(entry) for entry in entries]
    if any(isinstance(one, RandomResizedCrop) for one in built[1:]):
        raise ValueError("random_resized_crop must come first: it is taken from the encoded image")
    return built


def _build(entry: str | Mapping[str, Mapping[str, Any]]) -> Augmentation | Own:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(f"{entry!r}: each entry is one name, or one name with its options")
    name, options = next(iter(entry.items()))
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"{name}={options!r}: its options are keys with values, as {{{name}: {{key: value}}}}")
    if is_reference(name):
        return Own(name, options)
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {name!r}; {near_matches(name, AUGMENTATIONS)}; yours is module:name")
    kind = import_from(AUGMENTATIONS[name])
    allowed = [field.name for field in fields(kind)]
    if unknown := next((option for option in options if option not in allowed), None):
        raise ValueError(
            f"{name} has no option {unknown!r}; {near_matches(unknown, allowed) if allowed else 'it has none'}"
        )
    try:
        return kind(**options)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ValueError(f"{name}.{problem['loc'][0]}={problem['input']!r}: {in_words(problem)}") from None
