"""CIFAR-10's binary files, MindRecord files and noise: the same contract, and damage told by the file's name."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.test_images_folder import SIZE, fill
from train.data import arrays, convert, image_folder, mindrecord, open_readers, statistics
from train.data.options import DataConfig
from train.data.reader import Reader, View
from train.errors import UserError


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
        (lambda path: path.unlink(), r"cannot read data_batch_3\.bin: No such file"),
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
        assert (record["label"], record["name"]) == (source.labels[i], source.name(i))
    assert i == len(source) - 1
    reader.close()


def test_a_mindrecord_file_can_be_cut(packed: Path, tmp_path: Path) -> None:
    for suffix in ("", ".db"):
        shutil.copy(packed / "one" / f"train.mindrecord{suffix}", tmp_path)
    train, held_out = mindrecord.open_sources(str(tmp_path), hold_out=2)
    assert train.labels.tolist() == [0] * 4 + [1] * 4 and held_out.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"data\.root: no .*val\.mindrecord; set data\.hold_out_per_class"):
        mindrecord.open_sources(str(tmp_path))
    with pytest.raises(UserError, match=r"val\.mindrecord exists"):
        mindrecord.open_sources(str(packed / "one"), hold_out=2)


def name_the_labels(index: Path) -> None:
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("UPDATE INDEXES SET label_0 = 'cat'")


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("", lambda path: path.unlink(), r"no file train\.mindrecord; write it with"),
        (".db", lambda path: path.unlink(), r"train\.mindrecord: its index train\.mindrecord\.db is missing"),
        (".db", lambda path: path.write_bytes(b"not SQLite" * 100), r"train\.mindrecord\.db: not an index"),
        (".db", lambda path: name_the_labels(path), r"train\.mindrecord\.db: not an index of numbered labels"),
        ("", lambda path: path.write_bytes(b"\x08" + bytes(30)), r"train\.mindrecord: not a MindRecord file"),
        ("", lambda path: path.write_bytes(path.read_bytes()[: (16 << 20) + 50]), r"train\.mindrecord: .* truncated"),
    ],
    ids=["missing", "no index", "bad index", "labels are text", "bad header", "truncated"],
)
def test_a_damaged_mindrecord_file_is_named(
    packed: Path, tmp_path: Path, suffix: str, damage: Callable[[Path], object], message: str
) -> None:
    for one in ("", ".db"):
        shutil.copy(packed / "one" / f"train.mindrecord{one}", tmp_path)
    damage(tmp_path / f"train.mindrecord{suffix}")
    with pytest.raises(UserError, match=message):
        mindrecord.open_sources(str(tmp_path), hold_out=1)


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
    ("keys", "message"),
    [
        ({"source": "cifar"}, "did you mean cifar10"),
        ({"source": "image_folder"}, "data.source=image_folder needs the folder that holds its files"),
        ({"source": "digits", "root": "data"}, "data.source=digits reads no files; leave this key out"),
        ({"source": "synthetic", "hold_out_per_class": 3}, "data.source=synthetic reads no files"),
        ({"image_size": 32, "eval_resize": 24}, "a centre of data.image_size=32 cannot be cut out of less"),
        ({"augment": ["flp"]}, "unknown augmentation 'flp'; did you mean flip"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**keys)
