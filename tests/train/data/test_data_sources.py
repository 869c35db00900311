"""CIFAR-10's binary files, MindRecord files and noise: the same contract, and damage told by the file's name."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sqlite3
import sys
import tracemalloc
import types
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.data.folders import SIZE, fill, jpeg
from train.data import arrays, convert, image_folder, mindrecord, open_readers, statistics
from train.data.augment import build_augmentations
from train.data.loader import EvalLoader, TrainLoader
from train.data.options import DataConfig
from train.data.reader import Reader
from train.data.source import Sources
from train.data.view import View
from train.runtime.errors import UserError


def write_cifar10(root: Path, per_file: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Write all six files; return the training images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6 * per_file, 3, 32, 32), np.uint8)
    labels = np.arange(6 * per_file, dtype=np.uint8) % 10
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    for number, name in enumerate((*arrays.CIFAR10_TRAIN_FILES, *arrays.CIFAR10_TEST_FILES)):
        records[number * per_file : (number + 1) * per_file].tofile(root / name)
    return images[:-per_file], labels[:-per_file].astype(np.int32)


def test_cifar10_is_read_as_published(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    train, held_out = arrays.open_cifar10(str(tmp_path))
    assert (len(train), len(held_out), train.num_classes) == (100, 20, 10)
    found, found_labels, _ = Reader(train, View(32)).read(np.arange(100))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(found_labels, labels)
    np.testing.assert_allclose(train.mean, images.mean(axis=(0, 2, 3)) / 255)
    np.testing.assert_allclose(train.std, images.std(axis=(0, 2, 3)) / 255)
    assert held_out.mean == train.mean


def test_cifar10_can_hold_out_a_part_of_the_training_images(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    train, held_out = arrays.open_cifar10(str(tmp_path), hold_out=2)
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
        arrays.open_cifar10(str(tmp_path))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, ``one`` file a part and ``many`` files a part made from it."""
    root = tmp_path_factory.mktemp("packed")
    fill(root / "folder")
    fill(root / "folder", "val", count=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "RECORDS_AT_ONCE", 4)  # dealt out to the shards more than once
        for out, shards in (("one", 1), ("many", 3)):
            assert convert.main([str(root / "folder"), str(root / out), "--shards", str(shards)]) == 0
    return root


@pytest.mark.parametrize("out", ["one", "many"])
def test_mindrecord_files_hold_what_the_folder_holds(packed: Path, out: str) -> None:
    folder = image_folder.open_sources(str(packed / "folder"))
    records = mindrecord.open_sources(str(packed / out))
    for expected, found in zip(folder, records, strict=True):
        everything = np.random.default_rng(0).permutation(len(expected))
        assert len(found) == len(expected) and found.num_classes == 2
        for one, other in zip(
            Reader(expected, View(SIZE)).read(everything), Reader(found, View(SIZE)).read(everything), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_the_librarys_own_reader_finds_the_same_images(packed: Path) -> None:
    from mindspore.mindrecord import FileReader

    source = image_folder.open_sources(str(packed / "folder")).train
    reader = FileReader(str(packed / "one" / "train.mindrecord"), num_consumer=1)
    for i, record in enumerate(reader.get_next()):
        assert bytes(record["image"]) == source.encoded(i)
        assert (record["label"], record["position"]) == (source.labels[i], i)
    assert i == len(source) - 1
    reader.close()


def test_the_names_of_classes_are_kept(packed: Path) -> None:
    for out in ("one", "many"):
        for source in mindrecord.open_sources(str(packed / out)):
            assert list(source.class_names) == ["cat", "dog"]
    assert len(arrays.open_digits(8).train.class_names) == 10


def written_elsewhere(
    path: Path, schema: dict[str, dict[str, Any]], rows: list[dict[str, Any]], index: list[str]
) -> None:
    """Write a file with MindSpore's own writer, as other programs do."""
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path), 1)
    writer.add_schema(schema, "pictures of somebody else")
    writer.add_index(index)
    writer.write_raw_data(rows)
    writer.commit()


OTHER = {
    "position": {"type": "string"}, "target": {"type": "int64"}, "note": {"type": "string"},
    "embedding": {"type": "float32", "shape": [-1]}, "jpeg": {"type": "bytes"}, "weight": {"type": "float32"},
}  # fmt: skip


def other_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "position": f"p{count - i}", "target": i % 3, "note": "x" * i, "jpeg": jpeg(20 * i), "weight": 0.5,
            "embedding": np.arange(i + 1, dtype=np.float32),
        }
        for i in range(count)
    ]  # fmt: skip


def test_files_of_other_programs_are_read_through_what_the_format_promises(tmp_path: Path) -> None:
    written_elsewhere(tmp_path / "train.mindrecord", OTHER, other_rows(9), ["position", "target"])
    train, validation = mindrecord.open_sources(str(tmp_path), hold_out=1)
    assert (train.num_classes, len(train.class_names), validation.labels.tolist()) == (3, 0, [0, 1, 2])
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2], "in the order of writing, whatever a field is called"
    images = Reader(train, View(SIZE)).read(np.arange(6)).images
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 20 * np.arange(6), atol=2)


def test_fields_that_could_be_meant_are_named(tmp_path: Path) -> None:
    schema = {**OTHER, "thumbnail": {"type": "bytes"}, "year": {"type": "int32"}}
    rows = [{**row, "thumbnail": jpeg(1), "year": 2024} for row in other_rows(3)]
    for part, index, message in (
        ("a", ["target"], r"fields of type bytes are \['jpeg', 'thumbnail'\]; needed is one, or one called image"),
        ("b", ["note"], r"whole numbers with an index \(FileWriter.add_index\) are \[\]; needed is one"),
    ):
        written_elsewhere(
            tmp_path / part, schema if part == "a" else OTHER, rows if part == "a" else other_rows(3), index
        )
        for suffix in ("", ".db"):
            (tmp_path / f"{part}{suffix}").rename(tmp_path / f"train.mindrecord{suffix}")
        with pytest.raises(UserError, match=message):
            mindrecord.open_sources(str(tmp_path), hold_out=1)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_each_file_is_opened_once_and_closed_with_the_last_source(packed: Path, tmp_path: Path) -> None:
    for path in (packed / "many").glob("train*"):
        shutil.copy(path, tmp_path)
    gc.collect()
    before = open_files()
    sources = mindrecord.open_sources(str(tmp_path), hold_out=2)
    assert open_files() == before + 3
    Reader(sources.validation, View(SIZE)).read(np.arange(4))
    del sources
    gc.collect()
    assert open_files() == before


def test_a_pipe_for_a_mindrecord_file_is_not_waited_for(packed: Path, tmp_path: Path) -> None:
    shutil.copy(packed / "one" / "train.mindrecord.db", tmp_path)
    os.mkfifo(tmp_path / "train.mindrecord")
    with pytest.raises(UserError, match=r"train\.mindrecord: cannot be read: is not a regular file"):
        mindrecord.open_sources(str(tmp_path), hold_out=2)


def test_a_mindrecord_file_can_be_cut(packed: Path, tmp_path: Path) -> None:
    for suffix in ("", ".db"):
        shutil.copy(packed / "one" / f"train.mindrecord{suffix}", tmp_path)
    train, held_out = mindrecord.open_sources(str(tmp_path), hold_out=2)
    assert train.labels.tolist() == [0] * 4 + [1] * 4 and held_out.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"data\.root: no .*val\.mindrecord; set data\.hold_out"):
        mindrecord.open_sources(str(tmp_path))
    with pytest.raises(UserError, match=r"val\.mindrecord exists"):
        mindrecord.open_sources(str(packed / "one"), hold_out=2)


def name_the_labels(index: Path) -> None:
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("UPDATE INDEXES SET label_0 = 'cat'")


def rows_without_end(index: Path) -> None:
    columns = ("ROW_ID", "PAGE_ID_BLOB", "PAGE_OFFSET_BLOB", "PAGE_OFFSET_BLOB_END", "label_0", "position_0")
    rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("ALTER TABLE INDEXES RENAME TO WAS")
        connection.execute(
            f"CREATE VIEW INDEXES AS {rows} SELECT {', '.join(f'x AS {name}' for name in columns)} FROM c"
        )


def set_header(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = re.sub(old, new, content[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header.ljust(length + 8) + content[16 + length :])


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".db", rows_without_end, r"train\.mindrecord\.db: not an index .*interrupted"),
        ("", lambda path: set_header(path, rb'"page_size": ?\d+', b'"page_size": 9' + b"0" * 19), "is damaged"),
        ("", lambda path: set_header(path, rb'"header_size": ?\d+', b'"header_size": Infinity'), "is damaged"),
        ("", lambda path: set_header(path, rb"^{", b'{"a": ' + b"[" * 100_000), "is damaged"),
        ("", lambda path: path.unlink(), r"no file train\.mindrecord; write it with"),
        (".db", lambda path: path.unlink(), r"train\.mindrecord: its index train\.mindrecord\.db is missing"),
        (".db", lambda path: path.write_bytes(b"not SQLite" * 100), r"train\.mindrecord\.db: not an index"),
        (".db", lambda path: name_the_labels(path), r"train\.mindrecord\.db: not an index of numbered labels"),
        ("", lambda path: path.write_bytes(b"\x08" + bytes(30)), r"train\.mindrecord: not a MindRecord file"),
        ("", lambda path: path.write_bytes(path.read_bytes()[: (16 << 20) + 50]), r"train\.mindrecord: its index does"),
    ],
    ids=["endless", "huge", "infinite", "deep", "missing", "no index", "bad index", "text", "bad header", "truncated"],
)
def test_a_damaged_mindrecord_file_is_named(
    packed: Path, tmp_path: Path, suffix: str, damage: Callable[[Path], object], message: str
) -> None:
    for one in ("", ".db"):
        shutil.copy(packed / "one" / f"train.mindrecord{one}", tmp_path)
    damage(tmp_path / f"train.mindrecord{suffix}")
    with pytest.raises(UserError, match=message):
        mindrecord.open_sources(str(tmp_path), hold_out=1)


def test_classes_in_another_order_are_told(packed: Path, tmp_path: Path) -> None:
    """Each part packed by itself, in another order of its classes: every validation figure would be wrong."""
    shutil.copytree(packed / "one", tmp_path / "one")
    set_header(tmp_path / "one" / "val.mindrecord", rb"(.*)cat(.*)dog", rb"\1dog\2cat")
    with pytest.raises(UserError, match="source=mindrecord: class 0 is 'cat' in training and 'dog' in validation"):
        open_readers(DataConfig(source="mindrecord", root=str(tmp_path / "one"), image_size=16))
    shutil.copytree(packed / "many", tmp_path / "many")
    set_header(tmp_path / "many" / "train.mindrecord1", rb"(.*)cat(.*)dog", rb"\1dog\2cat")
    with pytest.raises(UserError, match=r"mindrecord1: its classes are not those of train\.mindrecord0"):
        mindrecord.open_sources(str(tmp_path / "many"))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_shard_is_told(packed: Path, tmp_path: Path, number: int) -> None:
    """Left out, its third of the images would be missed by nobody."""
    shutil.copytree(packed / "many", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob(f"train.mindrecord{number}*"):
        path.unlink()
    with pytest.raises(UserError, match=r"train\.mindrecord[01]: is one of 3 files, here are 2 \(train"):
        mindrecord.open_sources(str(tmp_path))


def test_conversion_names_what_it_refuses(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(packed / "folder"), str(packed / "one")]) == 2
    assert "train.mindrecord exists already" in capsys.readouterr().err
    assert convert.main([str(packed / "folder"), str(tmp_path / "out"), "--shards", "9"]) == 2
    assert "--shards=9: val has only 6 images" in capsys.readouterr().err
    fill(tmp_path, classes=("cat", "dog"))
    fill(tmp_path, "val", classes=("cat", "cow"))
    assert convert.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "class dog is in" in capsys.readouterr().err
    (tmp_path / "file").write_text("not a folder")
    for out in ("file", "file/out"):
        assert convert.main([str(packed / "folder"), str(tmp_path / out)]) == 2
        assert f"{out}: cannot be written: Not a directory" in capsys.readouterr().err


def test_a_conversion_takes_names_that_are_no_utf8_and_follows_the_umask(tmp_path: Path) -> None:
    latin = os.fsdecode(b"caf\xe9")
    fill(tmp_path, classes=("dog", latin))
    (tmp_path / "train" / "dog" / "000.jpg").rename(tmp_path / "train" / "dog" / f"{latin}.jpg")
    before = os.umask(0o027)
    try:
        assert convert.main([str(tmp_path), str(tmp_path / "out")]) == 0
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}
    train, _ = mindrecord.open_sources(str(tmp_path / "out"), hold_out=1)
    assert list(train.class_names) == [latin, "dog"]


@pytest.mark.parametrize("out", ["out", "new/out", "old"])
def test_a_conversion_that_fails_leaves_nothing_behind(
    tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    fill(tmp_path, "val")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("of somebody else")
    last = tmp_path / "val" / "dog" / "005.jpg"
    image = last.read_bytes()
    last.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(convert, "RECORDS_AT_ONCE", 4)  # much is written before the last image is met
    assert convert.main([str(tmp_path), str(tmp_path / out)]) == 2
    assert "val/dog/005.jpg: the file is empty" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    last.write_bytes(image)
    assert convert.main([str(tmp_path), str(tmp_path / out)]) == 0
    assert [len(part) for part in mindrecord.open_sources(str(tmp_path / out))] == [12, 12]
    assert not [path for path in tmp_path.rglob(".*")]


def test_noise_has_the_shape_that_is_asked_for() -> None:
    options = DataConfig(source="synthetic", image_size=6, synthetic_examples=130, synthetic_classes=7)
    train, held_out = open_readers(options)
    assert (len(train), len(held_out), train.source.num_classes) == (130, 13, 7)
    batch = train.read(np.arange(130))
    assert batch.images.shape == (130, 3, 6, 6) and batch.labels.max() == 6


@pytest.mark.parametrize("source", ["image_folder", "mindrecord", "cifar10"])
def test_every_source_of_files_is_opened_by_its_name(packed: Path, tmp_path: Path, source: str) -> None:
    root = {"image_folder": packed / "folder", "mindrecord": packed / "one", "cifar10": tmp_path}[source]
    write_cifar10(tmp_path)
    readers = open_readers(DataConfig(source=source, root=str(root), image_size=16))
    assert readers.train.read(np.arange(3)).images.shape == (3, 3, 16, 16)
    assert readers.train.source.fingerprint() != readers.validation.source.fingerprint()


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
