"""Data sets that are held in memory: arrays of one's own, the digits, and noise for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.data.example import Example, Field, Tree, form, leaves, map_leaves
from train.data.options import DataConfig
from train.data.source import Sources
from train.runtime.errors import UserError

_VALUES = np.arange(256) / 255


class MemorySource:
    """Inputs and targets held as arrays, of each an axis of examples in front; a :class:`train.data.source.Source`.

    Both may be one array, a tuple or a mapping of names to arrays. Targets (N,) of whole numbers are classes. Inputs
    that are uint8 (N, C, H, W) are images, of any number of channels; ``mean`` and ``std`` are taken from
    ``statistics_of`` (a training split), or from the images themselves. Other inputs reach the model as they are:
    neither resized, nor normalised.
    """

    def __init__(
        self,
        images: Tree,
        labels: Tree,
        num_classes: int,
        statistics_of: MemorySource | None = None,
        class_names: Sequence[str] = (),
    ):
        for one in leaves(images):
            _check_array(one)
        self.images = images
        self.labels = labels
        self.num_classes = num_classes
        self.class_names: Sequence[str] = class_names
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()
        first, *_ = leaves(images)
        self.channels = int(first.shape[1]) if first.ndim > 1 else 1
        with_channels = [one for one in leaves(images) if _are_images(one)]
        if with_channels:
            self.channels = int(with_channels[0].shape[1])
            self.mean = statistics_of.mean if statistics_of else channel_means(with_channels[0])
            self.std = statistics_of.std if statistics_of else channel_deviations(with_channels[0])

    def __len__(self) -> int:
        return len(leaves(self.images)[0])

    @property
    def example(self) -> Example:
        inputs, targets = map_leaves(lambda one: _channels_last(one[:1]), self.images), self.labels
        return Example(*(map_leaves(lambda one: Field(one.shape[1:], one.dtype), tree) for tree in (inputs, targets)))

    def image(self, index: int) -> Tree:
        return map_leaves(lambda one: _channels_last(one[index : index + 1])[0], self.images)

    def name(self, index: int) -> str:
        return f"example {index}"

    def fingerprint(self) -> str:
        digest = blake2b(digest_size=8)
        for one in (*leaves(self.images), *leaves(self.labels)):
            digest.update(np.ascontiguousarray(one).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def _are_images(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.dtype == np.uint8


def _channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if _are_images(array) else array


def _check_array(array: Any) -> None:
    """Raise a :class:`UserError` for what cannot be an input of a :class:`MemorySource`."""
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise UserError(f"MemorySource: its input is {form(array)}; give an array with an axis of examples in front")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array.reshape(len(array), -1)).all(axis=1)).all():
        raise UserError(f"example {int(np.argmin(finite))} of {len(array)} holds values that are not finite")
    if _are_images(array) and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):
        raise UserError(
            f"MemorySource: images {array.shape} have their channels last; give (N, channels, height, width), "
            "images.transpose(0, 3, 1, 2)"
        )


def channel_means(images: np.ndarray) -> tuple[float, ...]:
    """Return the mean of each channel of uint8 (N, C, H, W), of values scaled to [0, 1]."""
    return tuple((_histograms(images) @ _VALUES).tolist())


def channel_deviations(images: np.ndarray) -> tuple[float, ...]:
    """Return the standard deviation of each channel of uint8 (N, C, H, W), of values scaled to [0, 1]."""
    fractions = _histograms(images)
    return tuple(np.sqrt(fractions @ _VALUES**2 - (fractions @ _VALUES) ** 2).tolist())


def _histograms(images: np.ndarray) -> np.ndarray:
    """Return the fraction of each of the 256 values in each channel, float64 (C, 256)."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for first in range(0, len(images), 1000):  # of which bincount makes int64; the file behind a memmap may be large
        for channel, count in enumerate(counts):
            count += np.bincount(images[first : first + 1000, channel].ravel(), minlength=256)
    return counts / images[:, 0].size


DIGITS = Path(__file__).parent / "digits.npz"
"""scikit-learn's digits, values 0 to 16, in a fixed order: drawn once, stratified by class; the last are held out."""
DIGITS_VALIDATION = 360


def digits_from_recipe(data: DataConfig, _: object) -> Sources:
    return open_digits(data.image_size)


def open_digits(image_size: int = 16) -> Sources:
    """Return the handwritten digits that scikit-learn bundles, grey images of 8×8 pixels in 10 classes.

    1,437 for training and 360 for validation, stratified by class, resized to ``image_size`` (bilinear).
    Source: UCI "Optical Recognition of Handwritten Digits" (test part), CC BY 4.0. The file lies here, since importing
    scikit-learn for it takes a second on every rank; a test holds it to ``sklearn.datasets.load_digits``.
    """
    with np.load(DIGITS) as file:
        images = np.stack([_resized_digit(image, image_size) for image in file["images"]])[:, None]
        labels = file["labels"].astype(np.int32)
    count = len(labels) - DIGITS_VALIDATION
    names = [str(number) for number in range(10)]
    train = MemorySource(images[:count], labels[:count], 10, class_names=names)
    return Sources(train, MemorySource(images[count:], labels[count:], 10, train, names))


def _resized_digit(image: np.ndarray, size: int) -> np.ndarray:
    """Bring one image of values 0 to 16 to uint8 (size, size)."""
    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


NOISE_IMAGES = 64


def noise_from_recipe(data: DataConfig, _: object) -> Sources:
    """Return RGB noise, a tenth as many images for validation as for training; labels go round the classes."""
    parts = enumerate((data.synthetic_examples, max(1, data.synthetic_examples // 10)))
    return Sources(*(NoiseSource(length, data.image_size, data.synthetic_classes, seed) for seed, length in parts))


class NoiseSource:
    """A source of any length that holds ``NOISE_IMAGES`` images."""

    class_names: Sequence[str] = ()
    channels = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.29, 0.29, 0.29)

    def __init__(self, length: int, size: int, classes: int, seed: int):
        self.num_classes = classes
        self.labels = np.arange(length, dtype=np.int32) % classes
        noise = np.random.default_rng(seed).integers(0, 256, (min(length, NOISE_IMAGES), size, size, 3), np.uint8)
        self._images = [Image.fromarray(one) for one in noise]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return self._images[index % len(self._images)]

    def name(self, index: int) -> str:
        return f"example {index}"

    def fingerprint(self) -> str:
        return f"{len(self)} examples of noise"
