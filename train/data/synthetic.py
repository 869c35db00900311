"""Noise in the shape of a data set, made in memory: for measuring everything but the reading of data."""

from __future__ import annotations

import numpy as np
from PIL import Image

from train.data.source import Sources

DISTINCT = 64
HELD_OUT_SHARE = 10


def open_sources(image_size: int, *, examples: int, classes: int) -> Sources:
    """Return ``examples`` training and a tenth as many held-out RGB images of noise; labels go round the classes."""
    return Sources(
        NoiseSource(examples, image_size, classes, seed=0),
        NoiseSource(max(1, examples // HELD_OUT_SHARE), image_size, classes, seed=1),
    )


class NoiseSource:
    """A :class:`train.data.Source` of any length that holds ``DISTINCT`` images."""

    channels = 3
    mean = (0.5, 0.5, 0.5)
    std = (0.29, 0.29, 0.29)

    def __init__(self, length: int, size: int, classes: int, seed: int):
        self.num_classes = classes
        self.labels = np.arange(length, dtype=np.int32) % classes
        noise = np.random.default_rng(seed).integers(0, 256, (min(length, DISTINCT), size, size, 3), np.uint8)
        self._images = [Image.fromarray(one) for one in noise]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return self._images[index % len(self._images)]

    def name(self, index: int) -> str:
        return f"example {index}"

    def fingerprint(self) -> str:
        return f"{len(self)} examples of noise"
