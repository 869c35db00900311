"""Examples of several inputs and targets, of masks, of different lengths: what they are declared as, and moved with."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from train.data import open_readers
from train.data.arrays import MemorySource
from train.data.augment import build_augmentations
from train.data.example import Example, Field
from train.data.loader import EvalLoader, TrainLoader
from train.data.options import DataConfig
from train.data.reader import Reader
from train.data.source import Source, Sources
from train.data.view import View
from train.runtime.errors import UserError

SIDE = 8


class Own(Source):
    """What ``examples`` returns, declared as ``example``."""

    num_classes = 3

    def __init__(self, example: Example, examples: Any, mean: tuple[float, ...] = (), channels: int = 1):
        self.example = example
        self.examples = examples
        self.means = mean
        self.channels = channels

    @property
    def mean(self) -> tuple[float, ...]:
        return self.means

    std = mean

    def __len__(self) -> int:
        return 12

    def read(self, index: int, rng: np.random.Generator | None) -> Any:
        return self.examples(index, rng)

    def fingerprint(self) -> str:
        return "own"


def opened(monkeypatch: pytest.MonkeyPatch, source: Any, **keys: Any) -> Reader:
    own = types.ModuleType("own")
    for name, one in {"open": lambda data: Sources(source, source), "drop": drop, "pad": pad}.items():
        setattr(own, name, one)
    monkeypatch.setitem(sys.modules, "own", own)
    return open_readers(DataConfig(source="own:open", image_size=SIDE, **keys)).train


def drop(example: Example, rng: np.random.Generator, *, p: float = 0.5) -> Example:
    kept = rng.random(example.inputs["ids"].shape) >= p
    return Example({**example.inputs, "ids": example.inputs["ids"] * kept}, np.float32(kept.mean()))


def pad(examples: list[Example], *, lengths: list[int]) -> Example:
    longest = max(len(one.inputs) for one in examples)
    length = next(one for one in lengths if one >= longest)
    rows = [np.pad(one.inputs, (0, length - len(one.inputs))) for one in examples]
    return Example(np.stack(rows), np.stack([one.targets for one in examples]))


OF_WORDS = Example({"ids": Field((4,), "int32"), "mask": Field((4,), "float32")}, Field((), "float32"))


def words(index: int, rng: Any) -> Any:
    return {"mask": np.ones(4, np.float32), "ids": np.full(4, index, np.int32)}, float(index)


def test_an_example_is_read_whole_and_changed_by_ones_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = opened(monkeypatch, Own(OF_WORDS, words), augment=[{"own:drop": {"p": 0.4}}])
    loaders = [TrainLoader(reader, global_batch=12, seed=1, rank=0, world_size=1, workers=n) for n in (1, 3)]
    one, three = (list(loader.batches(0, 3)) for loader in loaders)
    (later,) = loaders[0].batches(2, 3)
    ranks = [TrainLoader(reader, global_batch=12, seed=1, rank=rank, world_size=2) for rank in range(2)]
    halves = [next(rank.batches(2, 3)) for rank in ranks]
    for other in (three[2], later):
        np.testing.assert_array_equal(one[2].inputs["ids"], other.inputs["ids"])
        np.testing.assert_array_equal(one[2].targets, other.targets)
    np.testing.assert_array_equal(one[2].inputs["ids"], np.concatenate([half.inputs["ids"] for half in halves]))
    assert list(one[0].inputs) == ["ids", "mask"] and one[0].targets.dtype == np.float32
    assert 0 < one[0].targets.mean() < 1 and (one[0].inputs["ids"] == 0).mean() > 0.2
    plain = list(EvalLoader(reader, batch=5).batches())
    np.testing.assert_array_equal(plain[0].inputs["ids"][:, 0], np.arange(5))
    assert plain[2].indices.tolist() == [10, 11, -1, -1, -1] and plain[2].targets[2] == 0


IMAGE = Field((None, None, 1), "uint8")


@pytest.mark.parametrize(
    ("declared", "given", "message"),
    [
        (Example(Field((6,), "float32"), Field((), "int32")), (np.zeros(1, np.float32), 0),
         r"example 0: its input is float32 \(1,\), and the source declares float32 \(6,\)"),
        (Example(Field((2,), "float32"), Field((), "int32")), (np.zeros(2, np.float32), 1.5),
         r"its target is a float, and the source declares int32 \(\)"),
        (Example(Field((2,), "uint8"), Field((), "int32")), (np.full(2, 300), 0), r"its input is int64 \(2,\)"),
        (Example(Field((2,), "uint8"), Field((), "int32")), [np.zeros(2, np.uint8), 0], "is a list instead of inputs"),
        (Example((Field((2,), "uint8"),) * 2, Field((), "int32")), (np.zeros((2, 2), np.uint8), 0),
         r"has uint8 \(2, 2\) as inputs instead of a tuple of 2"),
        (OF_WORDS, ({"ids": np.zeros(4, np.int32)}, 0.0), "has a mapping with ids as inputs instead of a mapping with"),
        (Example(IMAGE, Field((), "int32")), (np.zeros((9, 9, 3), np.uint8), 0),
         r"its input is uint8 \(9, 9, 3\), and the source declares uint8 \(any, any, 1\)"),
        (Example(IMAGE, Field((None, None), "uint8")), (np.zeros((9, 9, 1), np.uint8), np.zeros((7, 9), np.uint8)),
         r"example 0: its target is \[7, 9\] for an image of 9x9"),
        (Example(Field((None,), "int32"), Field((), "int32")), (np.zeros(3, np.int32), 0),
         r"its input is int32 \(any,\); data.collate has to name"),
        (Example(Field((2,), "float32"), Field((), "int32")), (np.zeros(2, np.float32), 3),
         "example 0: its class is 3; with 3 classes it has to be 0 to 2"),
        (Example(Field((2,), "float32"), {"id": Field((), "int64")}), (np.zeros(2, np.float32), {"id": 2**40}),
         rf"its target id is {2**40}, and one whole number is int32 in a batch; give it the shape \(1,\)"),
        (Example(np.zeros(3), Field((), "int32")), (np.zeros(3), 0), "declares float64 .* as its input; give a train"),
    ],
)  # fmt: skip
def test_what_is_not_as_declared_is_one_line(
    monkeypatch: pytest.MonkeyPatch, declared: Example, given: Any, message: str
) -> None:
    mean = (0.5,) if declared.inputs is IMAGE else ()
    with pytest.raises(UserError, match=message):
        opened(monkeypatch, Own(declared, lambda index, rng: given, mean))


def test_an_input_of_one_whole_number_keeps_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of several does: only a target is taken for a class, and int32."""
    declared = Example({"user": Field((), "int64"), "kind": Field((), "uint8")}, {"rating": Field((), "float64")})
    read = Own(declared, lambda index, rng: ({"user": 2**40 + index, "kind": 3}, {"rating": 0.5}))
    reader = opened(monkeypatch, read)
    batch = reader.read(np.arange(2))
    assert batch.inputs["user"].tolist() == [2**40, 2**40 + 1] and batch.inputs["kind"].dtype == np.uint8
    assert batch.targets["rating"].dtype == np.float32 and str(reader.example.inputs["user"]) == "int64 ()"


class Derived(Source):
    """With the defaults of :class:`Source`, and what it needs set in its constructor."""

    num_classes = 2

    def __init__(self) -> None:
        self.labels, self.mean, self.std = np.arange(6) % 2, (0.5,), (0.2,)

    def __len__(self) -> int:
        return 6

    def image(self, index: int) -> Any:
        return np.zeros((9, 9, 1), np.uint8)


def test_a_derived_source_sets_what_it_needs_and_has_to_say_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="training is a Derived without fingerprint"):
        opened(monkeypatch, Derived())
    monkeypatch.setattr(Derived, "fingerprint", lambda self: "zeros", raising=False)
    assert opened(monkeypatch, Derived()).read(np.arange(6)).labels.tolist() == [0, 1, 0, 1, 0, 1]


class OldForm:
    """A source as a reader writes it: images and labels."""

    num_classes, channels, mean, std, class_names = 2, 3, (0.5,) * 3, (0.2,) * 3, ()
    labels = np.arange(6) % 2

    def __len__(self) -> int:
        return 6

    def image(self, index: int) -> Any:
        return np.zeros((9, 9, 3 if index != 5 else 1), np.uint8)

    def name(self, index: int) -> str:
        return f"row {index}"

    def fingerprint(self) -> str:
        return ""


def test_later_images_are_held_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^row 5: its input is uint8 \(9, 9, 1\), and the source declares .*any, 3\)"):
        opened(monkeypatch, OldForm())
    monkeypatch.delattr(OldForm, "num_classes")
    with pytest.raises(UserError, match=r"training is a OldForm without num_classes; see train.data.source.Source"):
        opened(monkeypatch, OldForm())
    own = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", own)
    own.open = lambda data: [1, 2]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data.source=own:open: returns a list; return train.data.source.Sources"):
        open_readers(DataConfig(source="own:open"))
    own.open = lambda: ()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data.source=own:open: is called with data and its options {'a': 1}"):
        open_readers(DataConfig(source="own:open", options={"a": 1}))


def test_arrays_with_their_channels_last_are_refused() -> None:
    with pytest.raises(UserError, match=r"images \(5, 32, 32, 3\) have their channels last"):
        MemorySource(np.zeros((5, 32, 32, 3), np.uint8), np.zeros(5, np.int32), num_classes=1)
    with pytest.raises(UserError, match="MemorySource: its input is a list; give an array"):
        MemorySource([1], np.zeros(5, np.int32), num_classes=1)


def of_masks(side: int = SIDE, dtype: str = "int64") -> MemorySource:
    """Images whose pixels say their mask."""
    masks = np.random.default_rng(0).integers(0, 5, (12, side, side))
    return MemorySource((masks[:, None] * 50).astype(np.uint8), (masks.astype(dtype), np.arange(12.0)), num_classes=5)


@pytest.mark.parametrize("dtype", ["int64", "float32", "bool"])
@pytest.mark.parametrize(
    "augment",
    [["flip"], [{"pad_crop": {"padding": 2}}], [{"pad_crop": {"padding_mode": "reflect"}}], ["flip", "random_erasing"],
     [{"flip": {"probability": 1}}, {"pad_crop": {"padding": 1}}]],
    ids=str,
)  # fmt: skip
def test_targets_that_lie_over_an_image_are_moved_with_it(augment: list[Any], dtype: str) -> None:
    reader = Reader(of_masks(dtype=dtype), View(SIDE, augmentations=build_augmentations(augment)))
    batch = reader.read(np.arange(12), np.random.default_rng)
    masks, _ = batch.targets
    assert masks.dtype == dtype and (masks != of_masks(dtype=dtype).labels[0]).any()
    if "random_erasing" not in augment:
        found = batch.inputs[:, 0] > 0 if dtype == "bool" else batch.inputs[:, 0] // 50
        np.testing.assert_array_equal(found, masks)


def test_targets_are_cut_and_resized_with_their_image() -> None:
    half = np.zeros((12, 24, 24), np.int32)
    half[:, :, :12] = 4
    source = MemorySource((half[:, None] * 50).astype(np.uint8), half, num_classes=5)
    for augment in ([], ["random_resized_crop"]):
        view = View(SIDE, augmentations=build_augmentations(augment))
        batch = Reader(source, view).read(np.arange(12), np.random.default_rng)
        near = batch.inputs[:, 0].astype(int) / 50
        assert batch.targets.shape == (12, SIDE, SIDE)
        assert np.abs(near - batch.targets).mean() < 0.35, "only the edge is between two values"


def test_a_target_that_lies_over_no_image_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image, map_ = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE, 1), np.eye(SIDE, dtype=np.float32)
    for over_image in (True, False):
        declared = Example(Field((SIDE, SIDE, 1), "uint8"), Field((SIDE, SIDE), "float32", over_image=over_image))
        own = Own(declared, lambda index, rng: (image, map_), (0.5,))
        reader = opened(monkeypatch, own, augment=[{"flip": {"probability": 1}}])
        batch = reader.read(np.arange(1), np.random.default_rng)
        np.testing.assert_array_equal(batch.inputs[0, 0], image[:, ::-1, 0])
        np.testing.assert_array_equal(batch.targets[0], map_[:, ::-1] if over_image else map_)


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment"])
def test_what_cannot_move_targets_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UserError, match=f"data.augment: {name} cannot move the targets with the image; leave it out"):
        opened(monkeypatch, of_masks(), augment=[name])


RAGGED = Example(Field((None,), "int32"), Field((), "int64"))


def ragged(index: int, rng: Any) -> Any:
    return np.arange(1, 2 + index, dtype=np.int32), index % 3


def test_examples_of_different_lengths_are_put_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = opened(monkeypatch, Own(RAGGED, ragged), collate={"own:pad": {"lengths": [4, 8, 16]}})
    found = list(EvalLoader(reader, batch=5, rank=0, world_size=2, workers=2).batches())
    assert [batch.inputs.shape for batch in found] == [(5, 16), (5, 16)] and found[0].targets.dtype == np.int32
    assert found[0].inputs[1].tolist() == [1, 2, 3] + [0] * 13 and found[1].indices.tolist() == [10, -1, -1, -1, -1]
    assert not found[1].inputs[1:].any() and reader.blank_inputs(2).shape == (2, 4)
    told = "batches of int32 (5, 16), int32 (5,): a graph is compiled for them, number 1"
    assert [record.getMessage() for record in caplog.records].count(told) == 1
    nothing = list(EvalLoader(reader, batch=13, rank=0, world_size=2).batches())[-1]
    assert (nothing.indices[6:] == -1).all()


def test_a_collate_is_held_to_what_the_source_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = opened(monkeypatch, Own(RAGGED, ragged), collate={"own:pad": {"lengths": [16]}})
    for returned, message in (
        (Example(np.zeros((1, 3)), np.zeros(1, np.int32)), r"the input of 2 examples is float64 \(1, 3\), not int32"),
        ([1], "data.collate: what it returns is a list instead of inputs and targets"),
    ):
        reader.collate = lambda examples, returned=returned: returned
        with pytest.raises(UserError, match=message):
            reader.read(np.arange(2))


def test_a_fault_in_a_collate_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = opened(monkeypatch, Own(RAGGED, ragged), collate={"own:pad": {"lengths": [16]}})

    def fails(examples: list[Example]) -> Example:
        raise ValueError("mine")

    reader.collate = fails
    with pytest.raises(ValueError, match=r"^mine$"):
        reader.read(np.arange(2))
