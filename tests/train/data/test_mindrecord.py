"""MindRecord files, ours and those of other programs, and damage told by the file's name."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.data.folders import SIZE, fill, jpeg
from train.data import convert, image_folder, mindrecord, open_readers
from train.data.options import DataConfig
from train.data.reader import Reader
from train.data.view import View
from train.runtime.errors import UserError


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


@pytest.mark.parametrize("source", ["image_folder", "mindrecord"])
def test_it_is_opened_by_its_name_as_the_folder_is(packed: Path, source: str) -> None:
    root = {"image_folder": packed / "folder", "mindrecord": packed / "one"}[source]
    readers = open_readers(DataConfig(source=source, root=str(root), image_size=16))
    assert readers.train.read(np.arange(3)).images.shape == (3, 3, 16, 16)
    assert readers.train.source.fingerprint() != readers.validation.source.fingerprint()
