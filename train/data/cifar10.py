"""CIFAR-10, as its binary files are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.data.arrays import MemorySource
from train.data.images import BadImage
from train.data.of_files import last_of_each_class, read_file
from train.data.options import DataConfig
from train.data.source import Sources
from train.runtime.errors import UserError, refused

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD_BYTES = 1 + 3 * 32 * 32


def from_recipe(data: DataConfig, _: object) -> Sources:
    """Return what the section ``data`` of a recipe describes."""
    return open_sources(data.root, hold_out=data.hold_out)


def open_sources(root: str, *, hold_out: float = 0) -> Sources:
    """Return CIFAR-10 from its published binary files: 50,000 training and 10,000 test images, RGB, 32×32, 10 classes.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". A record is one label byte and
    3072 bytes of pixels: red, green, blue planes, row by row.

    Args:
        hold_out: hold out this many (below 1: this fraction) of the training images of each class, the last of the
            files, and leave the test images untouched.

    Raises:
        UserError: for a missing file, one that is not whole records, or a label above 9; the message names the file.
    """
    images, labels = _read(Path(root), TRAIN_FILES)
    if hold_out:
        keep, last = last_of_each_class(labels, hold_out, CLASSES)
        parts = ((images[keep], labels[keep]), (images[last], labels[last]))
    else:
        parts = ((images, labels), _read(Path(root), TEST_FILES))
    train = MemorySource(*parts[0], len(CLASSES), class_names=CLASSES)
    return Sources(train, MemorySource(*parts[1], len(CLASSES), train, CLASSES))


def _read(root: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of some files, uint8 (n, 3, 32, 32), and their labels, int32 (n,)."""
    records = np.concatenate([_records(root / name) for name in names])
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int32)


def _records(path: Path) -> np.ndarray:
    try:
        data = read_file(path)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        words = (
            f"data.root={path.parent}: cannot read {path.name}: {error.strerror}; expected: CIFAR-10's binary version"
        )
        raise refused(error, f"{words} (not the one for Python), data_batch_1.bin to test_batch.bin") from None
    if not data or len(data) % RECORD_BYTES:
        raise UserError(
            f"{path}: {len(data)} bytes are not whole records of {RECORD_BYTES}; the file is damaged or no "
            "CIFAR-10 binary file, copy it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= len(CLASSES):
        first = int(np.argmax(records[:, 0] >= len(CLASSES)))
        raise UserError(f"{path}: record {first} has label {records[first, 0]}, not 0 to 9; copy the file again")
    return records
