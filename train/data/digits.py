"""The handwritten digits bundled with scikit-learn: 1,797 grey images of 8×8 pixels in 10 classes.

Source: UCI "Optical Recognition of Handwritten Digits" (test part), ``sklearn.datasets.load_digits``. No download.
"""

from __future__ import annotations

import numpy as np

from train.data.memory import MemorySource
from train.data.source import Sources

NUM_CLASSES, CHANNELS = 10, 1
HELD_OUT = 360
# Fixed, and apart from the run's seed: accuracies of different runs are always measured on the same images.
SPLIT_SEED = 0


def open_sources(image_size: int = 16) -> Sources:
    """Return 1,437 training and 360 held-out images, stratified by class, resized to ``image_size`` (bilinear)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.stack([_resize(image, image_size) for image in digits.images])[:, None]
    labels = digits.target.astype(np.int32)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    source = MemorySource(images[train], labels[train], NUM_CLASSES)
    return Sources(source, MemorySource(images[held_out], labels[held_out], NUM_CLASSES, statistics_of=source))


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bring one image of values 0 to 16 to uint8 (size, size)."""
    from PIL import Image

    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
