"""MindRecord files, read in any order: ``ROOT/train.mindrecord`` and ``ROOT/val.mindrecord``, each with its ``.db``.

Files in shards are ``train.mindrecord0``, ``train.mindrecord1``, …  :mod:`train.data.convert` writes both kinds.

The library's own readers go through a file from front to back, or draw an order of their own; training needs any
example at any time. So this reads a record's place from the index and its bytes from the file, as the format lays them
out: the file begins with the length of a header (8 bytes, little endian) and the header, JSON; after ``header_size``
bytes come pages of ``page_size`` bytes. The index is an SQLite file with the table INDEXES: a row holds the page of a
record's fields of bytes, where in it they begin and end, and each indexed field as a column ``<name>_<schema>``. What
begins there is a length (8 bytes, little endian) and the content of the only field of bytes; or, where there are
several (arrays are fields of bytes, too), of each in the header's order its length (8 bytes, big endian) and content.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

import numpy as np

from train.data.image_folder import IMAGENET_MEAN, IMAGENET_STD, visible
from train.data.images import BadImage, Stored, open_image
from train.data.of_files import with_validation
from train.data.options import DataConfig
from train.data.source import Sources
from train.runtime.errors import UserError, refused
from train.runtime.files import open_file

SUFFIX = ".mindrecord"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 64 << 20
CONVERT = "write it with: python -m train.data.convert FOLDER OUT"
NOTES = "train.data.convert"
"""The key under which that program keeps the names of classes in a file's description."""


def from_recipe(data: DataConfig, _: object) -> Sources:
    """Return what the section ``data`` of a recipe describes."""
    return open_sources(data.root, hold_out=data.hold_out)


def open_sources(root: str, *, hold_out: float = 0) -> Sources:
    """Return the records below ``root``; without ``val``, hold out the last of each class.

    Raises:
        UserError: for a missing, damaged or truncated file, or one without an index of labels.
    """
    train = RecordSource.open("train", Path(root))
    val = (_shards(Path(root), "val") or [Path(root) / f"val{SUFFIX}"])[0]

    def open_val() -> RecordSource:
        validation = RecordSource.open("val", Path(root))
        if validation.num_classes != train.num_classes:
            raise UserError(
                f"data.root={root}: labels 0 to {train.num_classes - 1} in train{SUFFIX}, 0 to "
                f"{validation.num_classes - 1} in val{SUFFIX}; {CONVERT}"
            )
        return validation

    return with_validation(train, val, open_val, hold_out=hold_out)


class RecordSource:
    """The images of one part of a data set; a :class:`train.data.Source`. Holds 36 bytes a record."""

    channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, files: Sequence[BinaryIO], header: Header, table: np.ndarray):
        """``table``: int64 (n, 4): each record's file, first byte, end and label."""
        self.files = files  # all threads and subsets read them: os.pread takes the place to read from as an argument
        self.header = header
        self.table = table
        self.labels = table[:, 3].astype(np.int32)
        self.class_names: Sequence[str] = header.class_names
        self.num_classes = len(header.class_names) or int(self.labels.max()) + 1

    @classmethod
    def open(cls, part: str, root: Path) -> RecordSource:
        """Read the indexes of all shards of ``part``."""
        paths = _shards(root, part)
        if not paths:
            raise UserError(f"data.root={root}: no file {part}{SUFFIX}; {CONVERT}")
        headers = [_read_header(path) for path in paths]
        for path, header in zip(paths, headers, strict=True):
            if header.class_names != headers[0].class_names:
                raise UserError(f"{path}: its classes are not those of {paths[0].name}; {CONVERT}")
            if header.files != len(paths):
                raise UserError(
                    f"{path}: is one of {header.files} files, here are {len(paths)} ({paths[0].name} to "
                    f"{paths[-1].name}); copy all of them and no others"
                )
        rows = np.concatenate([_read_index(*shard) for shard in zip(paths, headers, itertools.count())])
        return cls([_open(path) for path in paths], headers[0], rows[np.argsort(rows[:, 4], kind="stable"), :4])

    def subset(self, indices: np.ndarray) -> RecordSource:
        """Return the records at ``indices``, in that order."""
        return RecordSource(self.files, self.header, self.table[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Stored:
        file, start, end, _ = self.table[index].tolist()
        try:
            data = os.pread(self.files[file].fileno(), end - start, start)
        except OSError as error:
            raise refused(error, f"{self.name(index)}: cannot be read: {error.strerror}") from None
        return open_image(self._field(data))

    def _field(self, data: bytes) -> bytes:
        """Return the content of the field that holds the image, of all fields of bytes of a record."""
        length, data = int.from_bytes(data[:LENGTH_BYTES], "little"), data[LENGTH_BYTES:]
        if self.header.several_fields and len(data) == length:
            for _ in range(self.header.image_field):
                data = data[LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big") :]
            length, data = int.from_bytes(data[:LENGTH_BYTES], "big"), data[LENGTH_BYTES:]
        if len(data) < length:
            raise BadImage(f"the record holds {len(data)} of {length} bytes")
        return data[:length]

    def name(self, index: int) -> str:
        file, start, end, _ = self.table[index].tolist()
        return f"{self.files[file].name}, bytes {start} to {end - 1}"

    def fingerprint(self) -> str:
        return blake2b(self.table.tobytes(), digest_size=8).hexdigest()


class Header(NamedTuple):
    """What is read of the header of a file."""

    header_size: int
    page_size: int
    files: int
    """how many the part has"""
    image_field: int
    """the place of the image among the fields of bytes"""
    several_fields: bool
    label_column: str
    position_column: str
    """of a file that :mod:`train.data.convert` wrote: the record's place in the data set; else the number 0"""
    class_names: tuple[str, ...]


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None


def _read_index(path: Path, header: Header, number: int) -> np.ndarray:
    """Return int64 (n, 5) of the records of one file: ``number``, first byte, end, label, position in the data set.

    Files that :mod:`train.data.convert` did not write tell no position; it is 0, and the order is that of writing.
    """
    index = path.with_name(path.name + ".db")
    if not index.is_file():
        raise UserError(f"{path}: its index {index.name} is missing; copy both files, or {CONVERT}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(index))}?mode=ro", uri=True)) as connection:
            # Instructions by the thousand: a row takes some for each of its bytes, a view may have rows without end.
            calls, most = itertools.count(), index.stat().st_size // 100
            connection.set_progress_handler(lambda: next(calls) > most, 1000)
            rows = connection.execute(
                f'SELECT PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END, "{header.label_column}", '
                f"{header.position_column} FROM INDEXES ORDER BY ROW_ID"
            )
            table = np.fromiter((value for row in rows for value in row), np.int64).reshape(-1, 5)
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{index}: not an index of numbered labels ({error}); {CONVERT}") from None
    pages = header.header_size + table[:, 0] * header.page_size
    starts, ends, labels = pages + table[:, 1], pages + table[:, 2], table[:, 3]
    inside = (starts >= header.header_size) & (ends - starts >= LENGTH_BYTES) & (ends <= path.stat().st_size)
    if not len(table) or not inside.all() or labels.min() < 0:
        raise UserError(f"{path}: its index does not match its records; copy both files again")
    return np.stack([np.full(len(table), number), starts, ends, labels, table[:, 4]], axis=1)


def _read_header(path: Path) -> Header:
    try:
        with open_file(path) as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        schema = header["schema"][0]
        blobs, types = list(schema["blob_fields"]), schema["schema"]
        indexed = [(str(one["index_field"]), int(one["schema_id"])) for one in header["index_fields"]]
        of_bytes = [name for name in blobs if types[name]["type"] == "bytes"]
        numbers = [(name, number) for name, number in indexed if types[name]["type"] in ("int32", "int64")]
        header_size, page_size = np.array([int(header["header_size"]), int(header["page_size"])], np.int64).tolist()
        classes = _classes(schema["desc"])
        compressed = bool(header.get("compression_size"))
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        raise UserError(f"{path}: not a MindRecord file, or its header is damaged; {CONVERT}") from None
    if compressed or len(header["schema"]) > 1:
        raise UserError(f"{path}: compressed, or of more than one schema; neither is read: {CONVERT}")
    if classes is not None:
        numbers = [(name, number) for name, number in numbers if name != "position"]
    image = _the_one("image", of_bytes, path, "fields of type bytes")
    label = _the_one("label", [name for name, _ in numbers], path, "whole numbers with an index (FileWriter.add_index)")
    return Header(
        header_size,
        page_size,
        files=len(header["shard_addresses"]),
        image_field=blobs.index(image),
        several_fields=len(blobs) > 1,
        label_column=f"{label}_{dict(numbers)[label]}",
        position_column="0" if classes is None else "position_0",
        class_names=tuple(classes or ()),
    )


def _the_one(name: str, found: Sequence[str], path: Path, kind: str) -> str:
    """Return ``name`` if it is among ``found``, or the only one there is."""
    if name in found or len(found) == 1:
        return name if name in found else found[0]
    raise UserError(f"{path}: its {kind} are {list(found)}; needed is one, or one called {name}; {CONVERT}")


def describe(class_names: Sequence[str]) -> str:
    """Return the description of a file in which records know their position, for :func:`_classes`."""
    return json.dumps({NOTES: {"classes": list(class_names)}})


def _classes(description: str) -> list[str] | None:
    """Return what :func:`describe` was given; None where another program wrote the file."""
    try:
        return [str(name) for name in json.loads(description)[NOTES]["classes"]]
    except (ValueError, KeyError, TypeError):
        return None


def _shards(root: Path, part: str) -> list[Path]:
    """Return the files of one part in the order of their numbers."""
    found = {}
    for entry in visible(root):
        number = re.fullmatch(rf"{part}{SUFFIX}(\d*)", entry.name)
        if number:
            found[int(number[1] or 0)] = root / entry.name
    return [found[number] for number in sorted(found)]
