"""CIFAR-10's binary files, and damage told by the file's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from train.data import cifar10, open_readers
from train.data.options import DataConfig
from train.data.reader import Reader
from train.data.view import View
from train.runtime.errors import UserError


def write_cifar10(root: Path, per_file: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Write all six files; return the training images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6 * per_file, 3, 32, 32), np.uint8)
    labels = np.arange(6 * per_file, dtype=np.uint8) % 10
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    for number, name in enumerate((*cifar10.TRAIN_FILES, *cifar10.TEST_FILES)):
        records[number * per_file : (number + 1) * per_file].tofile(root / name)
    return images[:-per_file], labels[:-per_file].astype(np.int32)


def test_cifar10_is_read_as_published(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    train, held_out = cifar10.open_sources(str(tmp_path))
    assert (len(train), len(held_out), train.num_classes) == (100, 20, 10)
    found, found_labels, _ = Reader(train, View(32)).read(np.arange(100))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(found_labels, labels)
    np.testing.assert_allclose(train.mean, images.mean(axis=(0, 2, 3)) / 255)
    np.testing.assert_allclose(train.std, images.std(axis=(0, 2, 3)) / 255)
    assert held_out.mean == train.mean


def test_cifar10_can_hold_out_a_part_of_the_training_images(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    train, held_out = cifar10.open_sources(str(tmp_path), hold_out=2)
    assert np.bincount(held_out.labels).tolist() == [2] * 10
    np.testing.assert_array_equal(Reader(held_out, View()).read(np.arange(20)).images, images[80:])
    np.testing.assert_array_equal(train.labels, labels[:80])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.unlink(),
            r"cannot read data_batch_3\.bin: No such file .*binary version \(not",
        ),
        (lambda path: path.write_bytes(b""), r"data_batch_3\.bin: 0 bytes are not whole records"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"data_batch_3\.bin: 61459 bytes are not whole"),
        (lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]), r"data_batch_3\.bin: record 0 has label 255"),
    ],
)
def test_a_damaged_cifar10_file_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_cifar10(tmp_path)
    damage(tmp_path / "data_batch_3.bin")
    with pytest.raises(UserError, match=message):
        cifar10.open_sources(str(tmp_path))


def test_it_is_opened_by_its_name(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    readers = open_readers(DataConfig(source="cifar10", root=str(tmp_path), image_size=16))
    assert readers.train.read(np.arange(3)).images.shape == (3, 3, 16, 16)
    assert readers.train.source.fingerprint() != readers.validation.source.fingerprint()
