"""A data set small enough to be held in memory."""

from __future__ import annotations

import numpy as np


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

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self.labels[indices]
