"""Data sets that are held in memory: arrays of one's own, the digits, CIFAR-10, and noise for measuring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.images import BadImage
from train.data.source import Sources, Targets, as_tuple, last_of_each_class, read_file
from train.runtime.errors import UserError, refused

_VALUES = np.arange(256) / 255


class MemorySource:
    """Examples and labels, classes (N,) int32 or other targets, held as arrays; a :class:`train.data.Source`.

    uint8 (N, C, H, W) are images, of any number of channels; ``mean`` and ``std`` are taken from ``statistics_of`` (a
    training split), or from the images themselves. Arrays of another type or shape reach the model as they are:
    neither resized, nor augmented, nor normalised.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Targets,
        num_classes: int,
        statistics_of: MemorySource | None = None,
        class_names: Sequence[str] = (),
    ):
        finite = np.isfinite(images.reshape(len(images), -1)).all(axis=1)
        if not finite.all():
            raise UserError(f"example {int(np.argmin(finite))} of {len(images)} holds values that are not finite")
        self.images = images
        self.labels = labels
        self.num_classes = num_classes
        self.class_names: Sequence[str] = class_names
        self.channels = int(images.shape[1]) if images.ndim > 1 else 1
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()
        if images.ndim == 4 and images.dtype == np.uint8:
            self.mean = statistics_of.mean if statistics_of else channel_means(images)
            self.std = statistics_of.std if statistics_of else channel_deviations(images)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        one: np.ndarray = self.images[index]
        return np.ascontiguousarray(one.transpose(1, 2, 0)) if self.mean else np.asarray(one)

    def name(self, index: int) -> str:
        return f"example {index}"

    def fingerprint(self) -> str:
        digest = blake2b(self.images.tobytes(), digest_size=8)
        for targets in as_tuple(self.labels):
            digest.update(np.ascontiguousarray(targets).tobytes())
        return digest.hexdigest()


def channel_means(images: np.ndarray) -> tuple[float, ...]:
    """Return the mean of each channel of uint8 (N, C, H, W), of values scaled to [0, 1]."""
    return tuple((_histograms(images) @ _VALUES).tolist())


def channel_deviations(images: np.ndarray) -> tuple[float, ...]:
    """Return the standard deviation of each channel of uint8 (N, C, H, W), of values scaled to [0, 1]."""
    fractions = _histograms(images)
    return tuple(np.sqrt(fractions @ _VALUES**2 - (fractions @ _VALUES) ** 2).tolist())


def _histograms(images: np.ndarray) -> np.ndarray:
    """Return the fraction of each of the 256 values in each channel, float64 (C, 256)."""
    counts = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    return np.stack(counts) / images[:, 0].size


DIGITS = Path(__file__).parent / "digits.npz"
"""scikit-learn's digits, values 0 to 16, in a fixed order: drawn once, stratified by class; the last are held out."""
DIGITS_VALIDATION = 360


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


CIFAR10_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST_FILES = ("test_batch.bin",)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32


def open_cifar10(root: str, *, hold_out: float = 0) -> Sources:
    """Return CIFAR-10 from its published binary files: 50,000 training and 10,000 test images, RGB, 32×32, 10 classes.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". A record is one label byte and
    3072 bytes of pixels: red, green, blue planes, row by row.

    Args:
        hold_out: hold out this many (below 1: this fraction) of the training images of each class, the last of the
            files, and leave the test images untouched.

    Raises:
        UserError: for a missing file, one that is not whole records, or a label above 9; the message names the file.
    """
    images, labels = _read_cifar10(Path(root), CIFAR10_TRAIN_FILES)
    if hold_out:
        keep, held_out = last_of_each_class(labels, hold_out, CIFAR10_CLASSES)
        train = _cifar10_source(images[keep], labels[keep])
        return Sources(train, _cifar10_source(images[held_out], labels[held_out], train))
    train = _cifar10_source(images, labels)
    return Sources(train, _cifar10_source(*_read_cifar10(Path(root), CIFAR10_TEST_FILES), train))


def _cifar10_source(images: np.ndarray, labels: np.ndarray, train: MemorySource | None = None) -> MemorySource:
    return MemorySource(images, labels, len(CIFAR10_CLASSES), train, CIFAR10_CLASSES)


def _read_cifar10(root: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    parts = [read_cifar10_records(root / name) for name in names]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def read_cifar10_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of one file, uint8 (n, 3, 32, 32), and their labels, int32 (n,)."""
    try:
        data = read_file(path)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        words = f"data.root={path.parent}: cannot read {path.name}: {error.strerror}{_instead(path)}"
        raise refused(error, words) from None
    if not data or len(data) % CIFAR10_RECORD_BYTES:
        raise UserError(
            f"{path}: {len(data)} bytes are not whole records of {CIFAR10_RECORD_BYTES}; the file is damaged or no "
            "CIFAR-10 binary file, copy it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR10_RECORD_BYTES)
    labels = records[:, 0].astype(np.int32)
    if labels.max() >= len(CIFAR10_CLASSES):
        first = int(np.argmax(labels >= len(CIFAR10_CLASSES)))
        raise UserError(f"{path}: record {first} has label {labels[first]}, CIFAR-10 has 0 to 9; copy the file again")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _instead(path: Path) -> str:
    """Say what is there in the place of CIFAR-10's binary files, where it is known."""
    if os.path.exists(path.with_suffix("")):
        return "; these are the files for Python, which run code when they are opened: get the binary version"
    for folder in (path.parent / "cifar-10-batches-bin", path.parent / "cifar-10-batches-py"):
        if os.path.isdir(folder):
            return f"; set data.root={folder}"
    return "; expected: the binary version, ROOT/data_batch_1.bin to data_batch_5.bin and test_batch.bin"


NOISE_IMAGES = 64
NOISE_VALIDATION_FRACTION = 10


def open_synthetic(image_size: int, *, examples: int, classes: int) -> Sources:
    """Return ``examples`` training and a tenth as many validation images, RGB noise; labels go round the classes."""
    return Sources(
        NoiseSource(examples, image_size, classes, seed=0),
        NoiseSource(max(1, examples // NOISE_VALIDATION_FRACTION), image_size, classes, seed=1),
    )


class NoiseSource:
    """A :class:`train.data.Source` of any length that holds ``NOISE_IMAGES`` images."""

    class_names: Sequence[str] = ()
    channels = 3
    mean = (0.5, 0.5, 0.5)
    std = (0.29, 0.29, 0.29)

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
