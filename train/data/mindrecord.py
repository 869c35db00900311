"""MindRecord files, read in any order: ``ROOT/train.mindrecord`` and ``ROOT/val.mindrecord``, each with its ``.db``.

Files in shards are ``train.mindrecord0``, ``train.mindrecord1``, …  :mod:`train.data.convert` writes both kinds.

The library's own readers go through a file from front to back, or draw an order of their own; training needs any
example at any time. So this reads a record's place from the index (SQLite, table INDEXES) and its bytes from the file:
after a header of ``header_size`` bytes come pages of ``page_size`` bytes, and a field of bytes is its length (8 bytes,
little endian) and its content.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import numpy as np

from train.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from train.data.images import Stored, open_image
from train.data.source import Sources, with_held_out
from train.errors import UserError

SUFFIX = ".mindrecord"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 64 << 20
CONVERT = "write it with: python -m train.data.convert FOLDER OUT"


def open_sources(root: str, *, hold_out_per_class: int = 0) -> Sources:
    """Return the records below ``root``; without ``val``, hold out the last ``hold_out_per_class`` of each class.

    Raises:
        UserError: for a missing, damaged or truncated file, or one without an index of labels.
    """
    train = RecordSource.open("train", Path(root))
    val = (_shards(Path(root), "val") or [Path(root) / f"val{SUFFIX}"])[0]

    def open_val() -> RecordSource:
        held_out = RecordSource.open("val", Path(root))
        if held_out.num_classes != train.num_classes:
            raise UserError(
                f"data.root={root}: labels 0 to {train.num_classes - 1} in train{SUFFIX}, 0 to "
                f"{held_out.num_classes - 1} in val{SUFFIX}; {CONVERT}"
            )
        return held_out

    return with_held_out(train, val, open_val, hold_out_per_class=hold_out_per_class)


class RecordSource:
    """The images of one part of a data set; a :class:`train.data.Source`. Holds 36 bytes a record."""

    channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, paths: Sequence[Path], table: np.ndarray):
        """``table``: int64 (n, 4): each record's file, first byte, end and label."""
        self.paths = list(paths)
        self.table = table
        self.labels = table[:, 3].astype(np.int32)
        self.num_classes = int(self.labels.max()) + 1
        # One open file for all threads: os.pread takes the place to read from as an argument.
        self._files = [os.open(path, os.O_RDONLY) for path in self.paths]

    @classmethod
    def open(cls, part: str, root: Path) -> RecordSource:
        """Read the indexes of all shards of ``part``."""
        paths = _shards(root, part)
        if not paths:
            raise UserError(f"data.root={root}: no file {part}{SUFFIX}; {CONVERT}")
        headers = [_read_header(path) for path in paths]
        _check_complete(paths, headers)
        numbers = range(len(paths))
        rows = np.concatenate([read_index(*shard) for shard in zip(paths, headers, numbers, strict=True)])
        return cls(paths, rows[np.argsort(rows[:, 4], kind="stable"), :4])

    def subset(self, indices: np.ndarray) -> RecordSource:
        """Return the records at ``indices``, in that order."""
        return RecordSource(self.paths, self.table[indices])

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            os.close(file)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Stored:
        file, start, end, _ = self.table[index].tolist()
        return open_image(os.pread(self._files[file], end - start, start))

    def name(self, index: int) -> str:
        file, start, end, _ = self.table[index].tolist()
        return f"{self.paths[file]}, bytes {start} to {end - 1}"

    def fingerprint(self) -> str:
        return blake2b(self.table.tobytes(), digest_size=8).hexdigest()


def read_index(path: Path, header: Mapping[str, int], number: int) -> np.ndarray:
    """Return int64 (n, 5) of the records of one file: ``number``, first byte, end, label, position in the data set.

    ``header`` is what :func:`_read_header` found in it.
    Files that were not written by :mod:`train.data.convert` tell no position; theirs is 0 and order is that of writing.
    """
    index = path.with_name(path.name + ".db")
    if not index.is_file():
        raise UserError(f"{path}: its index {index.name} is missing; copy both files, or {CONVERT}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(index))}?mode=ro", uri=True)) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(INDEXES)")]
            position = "position_0" if "position_0" in columns else "0"
            rows = connection.execute(
                f"SELECT PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END, label_0, {position} FROM INDEXES "
                "ORDER BY ROW_ID"
            )
            table = np.fromiter((value for row in rows for value in row), np.int64).reshape(-1, 5)
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{index}: not an index with a field label ({error}); {CONVERT}") from None
    pages = header["header_size"] + table[:, 0] * header["page_size"]
    ends = pages + table[:, 2]
    size = path.stat().st_size
    if not len(table) or int(ends.max()) > size:
        raise UserError(f"{path}: its index tells of more than its {size} bytes; it is truncated, copy it again")
    files = np.full(len(table), number)
    return np.stack([files, pages + table[:, 1] + LENGTH_BYTES, ends, table[:, 3], table[:, 4]], axis=1)


def _check_complete(paths: Sequence[Path], headers: Sequence[Mapping[str, int]]) -> None:
    """Refuse a part whose files are not all there: each file's header says how many there are."""
    for path, header in zip(paths, headers, strict=True):
        count = header["files"]
        if count != len(paths):
            raise UserError(
                f"{path}: is one of {count} files, here are {len(paths)} ({paths[0].name} to {paths[-1].name}); copy "
                "all of them and no others"
            )


def _read_header(path: Path) -> dict[str, int]:
    """Return header_size and page_size in bytes, and how many files the part has."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        fields = header["schema"][0]["blob_fields"]
        sizes = {key: int(header[key]) for key in ("header_size", "page_size")}
        sizes["files"] = len(header["shard_addresses"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"{path}: not a MindRecord file, or its header is damaged; {CONVERT}") from None
    if len(fields) != 1:
        raise UserError(f"{path}: fields of bytes are {fields}; needed is one, the encoded image; {CONVERT}")
    return sizes


def _shards(root: Path, part: str) -> list[Path]:
    """Return the files of one part in the order of their numbers."""
    found = {}
    for path in root.glob(f"{part}{SUFFIX}*"):
        number = re.fullmatch(rf"{part}{SUFFIX}(\d*)", path.name)
        if number:
            found[int(number[1] or 0)] = path
    return [found[number] for number in sorted(found)]
