"""Order, shards and exact counting, for sizes and worlds that do not divide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from train.data import arrays
from train.data.arrays import MemorySource
from train.data.loader import EvalLoader, TrainLoader, epoch_order
from train.data.reader import Reader
from train.data.view import View
from train.runtime.errors import UserError


def numbered(length: int) -> MemorySource:
    """A source whose label is the example's own position."""
    labels = np.arange(length, dtype=np.int32)
    return MemorySource((labels % 256).astype(np.uint8).reshape(-1, 1, 1, 1), labels, num_classes=length)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert sorted(epoch_order(100, 1, 0)) == list(range(100))
    np.testing.assert_array_equal(epoch_order(100, 1, 3), epoch_order(100, 1, 3))
    assert (epoch_order(100, 1, 0) != epoch_order(100, 1, 1)).any()
    assert (epoch_order(100, 1, 0) != epoch_order(100, 2, 0)).any()


@pytest.mark.parametrize(("length", "batch", "world"), [(14, 6, 1), (14, 6, 2), (15, 7, 3), (16, 5, 4), (12, 12, 5)])
def test_ranks_share_each_epoch_without_overlap(length: int, batch: int, world: int) -> None:
    loaders = [
        TrainLoader(numbered(length), global_batch=batch, seed=2, rank=r, world_size=world) for r in range(world)
    ]
    per_epoch = length // batch
    assert {loader.steps_per_epoch for loader in loaders} == {per_epoch}
    streams = [list(loader.batches(0, 2 * per_epoch)) for loader in loaders]
    for epoch in range(2):
        seen = np.concatenate([stream[epoch * per_epoch + i].indices for i in range(per_epoch) for stream in streams])
        assert len(seen) == per_epoch * batch
        assert len(set(seen.tolist())) == len(seen)
    for batch_read in itertools.chain(*streams):
        np.testing.assert_array_equal(batch_read.labels, batch_read.indices)


def test_starting_late_gives_the_same_batches() -> None:
    loader = TrainLoader(numbered(50), global_batch=8, seed=5)
    whole = list(loader.batches(0, 20))
    for start in (1, 6, 13):
        for late, expected in zip(loader.batches(start, 20), whole[start:], strict=True):
            np.testing.assert_array_equal(late.indices, expected.indices)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3, 5, 16])
@pytest.mark.parametrize("length", [12, 13, 14, 15, 16])
@pytest.mark.parametrize("workers", [1, 4])
def test_evaluation_reads_every_example_once(workers: int, length: int, batch: int, world: int) -> None:
    counted, numbers = [], set()
    for rank in range(world):
        loader = EvalLoader(numbered(length), batch=batch, rank=rank, world_size=world, workers=workers)
        parts = list(loader.batches())
        numbers.add(len(parts))
        for part in parts:
            assert part.images.shape == (batch, 1, 1, 1)
            np.testing.assert_array_equal(part.labels, part.indices)
            counted += [index for index in part.indices.tolist() if index >= 0]
    assert sorted(counted) == list(range(length))
    assert len(numbers) == 1, "ranks exchange something at each batch"


@pytest.mark.parametrize("workers", [1, 3, 12])
def test_no_loader_reads_more_than_three_batches_ahead(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbered(200)
    read: list[int] = []
    image = source.image

    def note(index: int) -> Image.Image:
        read.append(index)
        return image(index)

    monkeypatch.setattr(source, "image", note)
    for batches in (
        TrainLoader(Reader(source, View(1)), global_batch=10, seed=1, workers=workers).batches(0, 20),
        EvalLoader(Reader(source, View(1)), batch=10, workers=workers).batches(),
    ):
        for count in range(1, 6):
            next(batches)
            assert len(read) <= 10 * (count + 3)
        batches.close()
        read.clear()


def test_impossible_batches_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"data\.global_batch=20: the training set has only 10"):
        TrainLoader(numbered(10), global_batch=20, seed=1)
    with pytest.raises(UserError, match=r"data\.global_batch=2: .* 3 ranks"):
        TrainLoader(numbered(10), global_batch=2, seed=1, rank=0, world_size=3)


def test_digits_are_split_once_and_for_all() -> None:
    sources = arrays.open_digits(16)
    assert (len(sources.train), len(sources.validation)) == (1437, 360)
    images, labels, _ = Reader(sources.validation, View()).read(np.arange(360))
    assert images.shape == (360, 1, 16, 16) and images.dtype == np.uint8 and labels.dtype == np.int32
    assert np.bincount(labels).min() >= 34, "stratified"
    assert sources.validation.mean == sources.train.mean
    every = np.concatenate([sources.train.images, sources.validation.images]).reshape(1797, -1)
    assert len(np.unique(every, axis=0)) == 1797, "no image stands in both parts"


def test_the_file_of_digits_is_scikit_learn_s_data_split_by_it() -> None:
    digits = load_digits()
    parts = train_test_split(np.arange(1797), test_size=360, stratify=digits.target, random_state=0)
    with np.load(arrays.DIGITS) as file:
        np.testing.assert_array_equal(file["images"], digits.images[np.concatenate(parts)])
        np.testing.assert_array_equal(file["labels"], digits.target[np.concatenate(parts)])
