"""CIFAR-10 from its published binary files ("CIFAR-10 binary version"): 60,000 RGB images of 32×32 in 10 classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". A record is one label byte and 3072
bytes of pixels: red, green, blue planes, row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data.memory import MemorySource
from train.data.source import Sources
from train.data.split import last_of_each_class
from train.errors import UserError

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
NUM_CLASSES, CHANNELS = 10, 3
RECORD_BYTES = 1 + 3 * 32 * 32


def open_sources(root: str, *, hold_out_per_class: int = 0) -> Sources:
    """Return the 50,000 training and the 10,000 test images.

    Args:
        hold_out_per_class: hold out this many training images of each class, the last of the files, and leave the test
            images untouched.

    Raises:
        UserError: for a missing file, one that is not whole records, or a label above 9; the message names the file.
    """
    images, labels = _read_all(Path(root), TRAIN_FILES)
    if hold_out_per_class:
        keep, held_out = last_of_each_class(labels, hold_out_per_class)
        train = MemorySource(images[keep], labels[keep], NUM_CLASSES)
        return Sources(train, MemorySource(images[held_out], labels[held_out], NUM_CLASSES, statistics_of=train))
    train = MemorySource(images, labels, NUM_CLASSES)
    return Sources(train, MemorySource(*_read_all(Path(root), TEST_FILES), NUM_CLASSES, statistics_of=train))


def _read_all(root: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    parts = [read_records(root / name) for name in names]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def read_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of one file, uint8 (n, 3, 32, 32), and their labels, int32 (n,)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"data.root={path.parent}: cannot read {path.name}: {error.strerror}") from None
    if not data or len(data) % RECORD_BYTES:
        raise UserError(
            f"{path}: {len(data)} bytes are not whole records of {RECORD_BYTES}; the file is damaged or no CIFAR-10 "
            "binary file, copy it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int32)
    if labels.max() >= NUM_CLASSES:
        first = int(np.argmax(labels >= NUM_CLASSES))
        raise UserError(f"{path}: record {first} has label {labels[first]}, CIFAR-10 has 0 to 9; copy the file again")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels
