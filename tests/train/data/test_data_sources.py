"""Arrays, noise and sources of one's own: the same contract, and what does not keep it is told."""

from __future__ import annotations

import sys
import tracemalloc
import types
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.data import arrays, open_readers, statistics
from train.data.augment import build_augmentations
from train.data.loader import EvalLoader, TrainLoader
from train.data.options import DataConfig
from train.data.reader import Reader
from train.data.source import Sources
from train.data.view import View
from train.runtime.errors import UserError


def test_the_digits_name_their_classes() -> None:
    assert len(arrays.open_digits(8).train.class_names) == 10


def test_noise_has_the_shape_that_is_asked_for() -> None:
    options = DataConfig(source="synthetic", image_size=6, synthetic_examples=130, synthetic_classes=7)
    train, held_out = open_readers(options)
    assert (len(train), len(held_out), train.source.num_classes) == (130, 13, 7)
    batch = train.read(np.arange(130))
    assert batch.images.shape == (130, 3, 6, 6) and batch.labels.max() == 6


def test_the_recipes_statistics_come_first() -> None:
    source = open_readers(DataConfig(source="synthetic", image_size=4)).train.source
    own = statistics(DataConfig(source="synthetic", mean=[0.1, 0.2, 0.3]), source)
    assert own == ([0.1, 0.2, 0.3], source.std)
    with pytest.raises(UserError, match=r"data\.std=\[0\.5\]: one number a channel, the images have 3"):
        statistics(DataConfig(source="synthetic", std=[0.5]), source)


def test_a_source_of_ones_own_is_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stripes.py").write_text(
        "import numpy as np\n"
        "from train.data.arrays import MemorySource\n"
        "from train.data.source import Sources\n"
        "def open_sources(options):\n"
        "    images = np.zeros((6, 1, options.image_size, options.image_size), np.uint8)\n"
        "    source = MemorySource(images, np.arange(6, dtype=np.int32) % 2, num_classes=2)\n"
        "    return Sources(source, source)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    readers = open_readers(DataConfig(source="stripes:open_sources", image_size=5))
    assert readers.train.read(np.arange(2)).images.shape == (2, 1, 5, 5)
    with pytest.raises(UserError, match=r"data\.source='stripes:open': stripes has no 'open'"):
        open_readers(DataConfig(source="stripes:open"))


@pytest.mark.parametrize(
    ("labels", "channels", "message"),
    [
        (np.arange(1, 11), 1, r"data\.source=own:open: training labels are 1 to 10; with 10 .* 0 to 9; subtract 1"),
        (np.arange(10) - 1, 1, "labels are -1 to 8; with 10 classes they have to be 0 to 9$"),
        (
            np.array(list("abcdefghij")),
            1,
            "labels are <U1; give an array of numbers, or a tuple or mapping of such arrays",
        ),
        ((np.zeros(10), [0] * 10), 1, "labels are list; give an array of numbers"),
        (np.where(np.arange(10) == 3, np.nan, 0.5), 1, "labels hold values that are not finite"),
        (np.arange(9), 1, r"labels have the shape \(9,\) for 10 examples"),
        ((np.zeros(10), np.zeros((9, 2))), 1, r"labels have the shape \(9, 2\) for 10 examples"),
    ],
)
def test_a_source_of_ones_own_keeps_the_contract(
    monkeypatch: pytest.MonkeyPatch, labels: Any, channels: int, message: str
) -> None:
    source = arrays.MemorySource(np.zeros((10, channels, 4, 4), np.uint8), labels, num_classes=10)
    own = types.ModuleType("own")
    own.open = lambda options: Sources(source, source)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own", own)
    with pytest.raises(UserError, match=message):
        open_readers(DataConfig(source="own:open"))


def test_arrays_of_a_file_are_not_copied() -> None:
    """A memmap may be larger than the memory."""
    images = np.zeros((4000, 1, 64, 64), np.uint8)
    images[::2] = 255
    tracemalloc.start()
    source = arrays.MemorySource(images, np.arange(4000) % 2, num_classes=2)
    printed = source.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.mean == (0.5,) and source.std == (0.5,) and peak < 3 * images.nbytes
    expected = blake2b(images.tobytes() + np.arange(4000, dtype=np.int64).__mod__(2).tobytes(), digest_size=8)
    assert printed == expected.hexdigest()


def in_memory(examples: np.ndarray) -> arrays.MemorySource:
    return arrays.MemorySource(examples, np.arange(len(examples), dtype=np.int32) % 2, num_classes=2)


@pytest.mark.parametrize("channels", [2, 4, 30])
def test_images_of_any_number_of_channels_are_resized_and_augmented(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, channels, 12, 12), np.uint8)
    source = in_memory(images)
    np.testing.assert_array_equal(Reader(source, View()).read(np.arange(6)).images, images)
    view = View(8, augmentations=build_augmentations(["random_resized_crop", "pad_crop", "flip", "random_erasing"]))
    batch = Reader(source, view).read(np.arange(6), np.random.default_rng)
    each = [
        Reader(in_memory(images[:, [channel]]), View(8)).read(np.arange(6)).images[:, 0] for channel in range(channels)
    ]
    assert batch.images.shape == (6, channels, 8, 8)
    found = Reader(source, View(8)).read(np.arange(6)).images
    assert np.abs(found.astype(int) - np.stack(each, axis=1)).max() <= 1, "OpenCV rounds by the number of channels"


@pytest.mark.parametrize(
    "examples",
    [np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32), np.arange(7 * 3 * 4 * 4).reshape(7, 3, 4, 4),
     np.arange(7, dtype=np.float16), np.arange(14, dtype=np.uint8).reshape(7, 2)],
    ids=lambda one: f"{one.dtype}{one.shape}",
)  # fmt: skip
def test_other_arrays_travel_as_they_are(monkeypatch: pytest.MonkeyPatch, examples: np.ndarray) -> None:
    source = in_memory(examples)
    own = types.ModuleType("own")
    own.open = lambda options: Sources(source, source)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own", own)
    options = DataConfig(source="own:open", image_size=8)
    reader = open_readers(options).train
    batch = next(iter(TrainLoader(reader, global_batch=5, seed=1, workers=2).batches(0, 1)))
    assert batch.images.dtype == examples.dtype
    np.testing.assert_array_equal(batch.images, examples[batch.indices])
    last = list(EvalLoader(reader, batch=4).batches())[-1]
    assert last.indices.tolist() == [4, 5, 6, -1] and not last.images[3].any()
    for key, words in ((("augment"), ["flip"]), ("mean", [0.5]), ("std", [0.5])):
        with pytest.raises(UserError, match=rf"data\.{key}=.*these examples are no images"):
            changed = options.model_copy(update={key: words})
            statistics(changed, open_readers(changed).train.source)


def test_other_targets_travel_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.normal(size=7), rng.integers(0, 300, (7, 3)).astype(np.uint16), rng.integers(0, 2, 7))
    examples = rng.normal(size=(7, 5)).astype(np.float32)
    source = arrays.MemorySource(examples, targets, num_classes=2)
    own = types.ModuleType("own")
    own.open = lambda options: Sources(source, source)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own", own)
    reader = open_readers(DataConfig(source="own:open")).train
    batch = next(iter(TrainLoader(reader, global_batch=5, seed=1, workers=2).batches(0, 1)))
    assert [one.dtype for one in batch.labels] == [np.float32, np.uint16, np.int32]
    for found, of_all in zip(batch.labels, targets, strict=True):
        np.testing.assert_array_equal(found, of_all[batch.indices].astype(found.dtype))
    last = list(EvalLoader(reader, batch=4).batches())[-1]
    assert [one[3].tolist() for one in last.labels] == [0.0, [0, 0, 0], -1]
    other = arrays.MemorySource(examples, (*targets[:2], 1 - targets[2]), num_classes=2)
    assert other.fingerprint() != source.fingerprint()


def test_arrays_that_cannot_be_trained_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="example 3 of 6 holds values that are not finite"):
        in_memory(np.where(np.arange(6) == 3, np.nan, 1.0).reshape(6, 1).astype(np.float32))
    own = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", own)
    of_bands = in_memory(np.zeros((4, 30, 8, 8), np.uint8))
    for source, keys, message in (
        (in_memory(np.zeros((4, 3))), {}, "training arrays are float64; give one of bool, uint8"),
        (of_bands, {"augment": ["trivial_augment"]}, "trivial_augment is for grey and RGB images, these have 30"),
    ):
        own.open = lambda options, source=source: Sources(source, source)  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=message):
            open_readers(DataConfig(source="own:open", image_size=8, **keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "cifar"}, "did you mean cifar10"),
        ({"source": "image_folder"}, "data.source=image_folder needs the folder that holds its files"),
        ({"source": "digits", "root": "data"}, "data.source=digits reads no files; leave this key out"),
        ({"source": "synthetic", "hold_out": 3}, "data.source=synthetic reads no files"),
        (
            {"source": "image_folder", "root": "d", "hold_out": 1.5},
            "a whole number of examples of each class, or below 1",
        ),
        ({"source": "digits", "options": {"a": 1}}, "are for your own source"),
        ({"image_size": 32, "eval_resize": 24}, "a centre of data.image_size=32 cannot be cut out of less"),
        ({"augment": ["flp"]}, "unknown augmentation 'flp'; did you mean flip"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**keys)
