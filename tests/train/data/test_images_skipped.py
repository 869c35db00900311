"""Images that are left out: what replaces them, what is said and counted, and when they are too many."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs import Tool
from tests.train.data.folders import SIZE, damaged, fill, reader, text_file
from train.data import open_readers
from train.data.augment import build_augmentations
from train.data.images import BadImage
from train.data.loader import EvalLoader, TrainLoader
from train.data.options import DataConfig
from train.data.reader import Reader, Skips
from train.data.view import View
from train.runtime.errors import UserError

image_folder = Tool("train.data.image_folder")


def test_a_skipped_image_is_replaced_by_the_next_of_its_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1, 2, 4)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    runs = [
        [TrainLoader(reader(tmp_path, 4), global_batch=10, seed=1, rank=r, world_size=world, workers=workers)
         for r in range(world)]
        for world, workers in ((1, 1), (1, 3), (3, 2))
    ]  # fmt: skip
    held = [np.concatenate([next(iter(one.batches(0, 1))).indices for one in run]).tolist() for run in runs]
    assert held[0] == held[1] == held[2], "no rank and no thread changes the replacement"
    expected = [{1: 3, 2: 3, 4: 0}.get(index, index) for index in runs[0][0].indices(0).tolist()]
    assert held[0] == expected
    batch = next(iter(runs[0][0].batches(0, 1)))
    np.testing.assert_array_equal(batch.labels, np.asarray(expected) >= 5)
    np.testing.assert_allclose(
        batch.images.mean(axis=(1, 2, 3)), [100 * (i >= 5) + 10 * (i % 5) for i in expected], atol=2
    )
    assert {path for path in re.findall(r"skipped \S*/cat/(\S+):", caplog.text)} == {
        "001.jpg", "002.jpg", "004.jpg", "notes.txt",
    }  # fmt: skip
    before = len(caplog.records)
    list(runs[0][0].batches(0, 2))
    assert len(caplog.records) == before, "each file is named once"


@pytest.mark.parametrize("last", range(5))
def test_the_last_readable_image_of_a_class_is_found_from_everywhere(tmp_path: Path, last: int) -> None:
    fill(tmp_path)
    damaged(tmp_path, *(number for number in range(5) if number != last))
    batch = next(iter(TrainLoader(reader(tmp_path, 4), global_batch=10, seed=1).batches(0, 1)))
    assert batch.indices[batch.labels == 0].tolist() == [last] * 5


def test_a_replacement_is_augmented_the_same_whether_or_not_the_damage_was_known(tmp_path: Path) -> None:
    """Damage that shows only after the crop has been drawn: as for a run that was resumed in between."""
    fill(tmp_path)
    for number in range(6):
        path = tmp_path / "train" / "cat" / f"{number:03}.jpg"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path = tmp_path / "train" / "cat" / "003.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    source = image_folder.open_sources(str(tmp_path), hold_out=1).train
    view = View(SIZE, augmentations=build_augmentations(["random_resized_crop", "flip"]))
    known = Reader(source, view, Skips(1))
    first, again = (known.read(np.array([3]), np.random.default_rng) for _ in range(2))
    assert first.indices.tolist() == again.indices.tolist() == [4]
    np.testing.assert_array_equal(first.images, again.images)


class SlowToTell(BadImage):
    """Its reason is read only when two threads ask for it at once, or after a fifth of a second."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)

    def __str__(self) -> str:
        with suppress(threading.BrokenBarrierError):
            self.both.wait(0.2)
        return "damage"


def test_a_file_that_two_threads_meet_at_once_is_named_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    shared = reader(tmp_path, skip_limit=1)
    opened, error, open_image = threading.Barrier(2), SlowToTell(), shared.source.image

    def image(index: int) -> Image.Image:
        if index != 3:
            return open_image(index)
        opened.wait(60)
        raise error

    monkeypatch.setattr(shared.source, "image", image)
    with ThreadPoolExecutor(2) as threads:
        batches = list(threads.map(lambda _: shared.read(np.array([3]), np.random.default_rng), range(2)))
    assert [batch.indices.tolist() for batch in batches] == [[4], [4]]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["damage (1 of at most 1)"]
    assert shared.skipped == {3}


def test_skipping_stops_above_the_limit(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1, 2, 4)
    with pytest.raises(UserError, match=r"cat/00\d\.jpg: .*data\.bad_image_limit=2"):
        list(TrainLoader(reader(tmp_path, 2), global_batch=10, seed=1).batches(0, 1))


def test_one_limit_counts_other_files_and_both_parts(tmp_path: Path) -> None:
    fill(tmp_path)
    text_file(tmp_path)
    damaged(tmp_path, 1, 5)  # one to train on, one held out
    options = DataConfig(source="image_folder", root=str(tmp_path), hold_out=1, bad_image_limit=2)
    readers = open_readers(options)
    list(TrainLoader(readers.train, global_batch=10, seed=1).batches(0, 1))
    with pytest.raises(UserError, match=r"cat/005\.jpg: .*data\.bad_image_limit=2"):
        list(EvalLoader(readers.validation, batch=2).batches())
    with pytest.raises(UserError, match=r"dog/notes\.txt: not an image by its name; repair or remove the file, or set"):
        open_readers(options.model_copy(update={"bad_image_limit": 0}))


def test_a_class_without_a_readable_image_stops(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 0, 1, 2, 3, 4)
    with pytest.raises(UserError, match=r"cat/00\d\.jpg: no image of its class can be decoded"):
        list(TrainLoader(reader(tmp_path, 100), global_batch=10, seed=1).batches(0, 1))


def test_a_skipped_held_out_image_counts_nowhere(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1, 4)
    batches = list(EvalLoader(reader(tmp_path, 5), batch=4).batches())
    labels = np.concatenate([batch.labels for batch in batches])
    indices = np.concatenate([batch.indices for batch in batches])
    assert indices.tolist() == [0, -1, 2, 3, -1, 5, 6, 7, 8, 9, -1, -1]
    np.testing.assert_array_equal(labels, np.where(indices < 0, -1, indices >= 5))


def test_what_is_left_out_is_black_whatever_the_memory_held(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1)
    skipping = reader(tmp_path, 5)
    batch = skipping.new_batch(4)
    batch.images[:] = 7
    skipping.fill(batch, np.array([9, 1]))
    assert batch.indices.tolist() == [9, -1, -1, -1]
    assert batch.images[0].min() > 0 and not batch.images[1:].any()
