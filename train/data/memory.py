"""A data set small enough to be held in memory."""

from __future__ import annotations

import numpy as np
from PIL import Image

from train.errors import UserError


class MemorySource:
    """Images (N, C, H, W) uint8 and labels (N,) int32 held as arrays; a :class:`train.data.Source`.

    ``mean`` and ``std`` are taken from ``statistics_of`` (a training split), or from the images themselves.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        statistics_of: MemorySource | None = None,
    ):
        self.mean: tuple[float, ...]
        self.std: tuple[float, ...]
        self.images = images
        self.labels = labels
        self.num_classes = num_classes
        self.channels = int(images.shape[1])
        if statistics_of is not None:
            self.mean, self.std = statistics_of.mean, statistics_of.std
        else:
            scaled = images.astype(np.float64) / 255
            self.mean = tuple(float(value) for value in scaled.mean(axis=(0, 2, 3)))
            self.std = tuple(float(value) for value in scaled.std(axis=(0, 2, 3)))

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        pixels = self.images[index]
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def name(self, index: int) -> str:
        return f"example {index}"


def last_of_each_class(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into (all but the last ``count`` of each class, the last ``count`` of each class), in order.

    Raises:
        UserError: when a class has no more than ``count`` examples.
    """
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) <= count:
            raise UserError(
                f"data.hold_out_per_class={count}: class number {label} has only {len(members)} examples, "
                "none would be left to train on"
            )
        held_out[members[-count:]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
