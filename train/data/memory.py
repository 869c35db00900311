"""A data set small enough to be held in memory."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from PIL import Image

_VALUES = np.arange(256) / 255


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
        self.images = images
        self.labels = labels
        self.num_classes = num_classes
        self.channels = int(images.shape[1])
        self.mean: tuple[float, ...] = statistics_of.mean if statistics_of else channel_means(images)
        self.std: tuple[float, ...] = statistics_of.std if statistics_of else channel_deviations(images)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        pixels = self.images[index]
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def name(self, index: int) -> str:
        return f"example {index}"

    def fingerprint(self) -> str:
        digest = blake2b(self.images.tobytes(), digest_size=8)
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def channel_means(images: np.ndarray) -> tuple[float, ...]:
    """Return the mean of each channel of uint8 (N, C, H, W), of values scaled to [0, 1]."""
    return tuple((_histograms(images) @ _VALUES).tolist())


def channel_deviations(images: np.ndarray) -> tuple[float, ...]:
    """Return the standard deviation of each channel of uint8 (N, C, H, W), of values scaled to [0, 1]."""
    shares = _histograms(images)
    return tuple(np.sqrt(shares @ _VALUES**2 - (shares @ _VALUES) ** 2).tolist())


def _histograms(images: np.ndarray) -> np.ndarray:
    """Return the share of each of the 256 values in each channel, float64 (C, 256)."""
    counts = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    return np.stack(counts) / images[:, 0].size
