"""Pack an image folder into MindRecord files: ``python -m train.data.convert FOLDER OUT``.

Images are copied as they are, byte by byte and in the order of the folder's listing, so that training on the files
gives the same batches as training on the folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from train.data.image_folder import FolderSource, check_same_classes
from train.data.images import BadImage
from train.data.mindrecord import SUFFIX, describe
from train.runtime.errors import OneLineParser, UserError, a_path, refused, run_command

RECORDS_AT_ONCE = 256
SCHEMA = {
    "image": {"type": "bytes"},
    "label": {"type": "int32"},
    "position": {"type": "int64"},  # in the folder's listing; the writer deals records out to its shards
}


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.data.convert",
        description="Pack FOLDER/train, and FOLDER/val where there is one, into MindRecord files.",
    )
    parser.add_argument("folder", type=a_path, help="holds train/<class>/*.jpg and perhaps val/<class>/*.jpg")
    parser.add_argument("out", type=a_path, help="where train.mindrecord and val.mindrecord are written")
    parser.add_argument("--shards", type=int, default=1, help="files for each part, 1 to 1000 (default: 1)")
    parser.add_argument("--classes", choices=("name", "natural"), default="name", help="their order, as data.classes")
    options = parser.parse_args(arguments)
    for part, count in convert(options.folder, options.out, options.shards, options.classes).items():
        print(f"{part}: {count} images in {options.out}")
    return 0


def convert(folder: Path, out: Path, shards: int = 1, classes: str = "name") -> dict[str, int]:
    """Pack ``folder/train``, and ``folder/val`` where there is one; return the number of images of each part.

    All files or none: they are written to a hidden folder and take their places when the last is complete.

    Raises:
        UserError: for a folder that is no image folder, different classes in its parts, an empty file, more shards than
            images, files that exist already, or an ``out`` that cannot be written.
    """
    if not 1 <= shards <= 1000:
        raise UserError(f"--shards={shards}: 1 to 1000")
    parts = [part for part in ("train", "val") if part == "train" or (folder / part).is_dir()]
    existing = sorted(path for part in parts for path in out.glob(f"{part}{SUFFIX}*"))
    if existing:
        raise UserError(f"{existing[0]} exists already; choose another folder or move it away")
    sources = {part: FolderSource.list_folder(folder / part, order=classes) for part in parts}
    if "val" in sources:
        check_same_classes(sources["train"], sources["val"])
    for part, source in sources.items():
        if shards > len(source):
            raise UserError(f"--shards={shards}: {part} has only {len(source)} images")
    os.umask(umask := os.umask(0o077))  # it can be read by setting it only
    # The hidden folder has to be on the file system of ``out``, so that files can be renamed into it.
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=nearest) as partial:
            for part, source in sources.items():
                _write(source, Path(partial) / f"{part}{SUFFIX}", shards)
            out.mkdir(parents=True, exist_ok=True)
            for path in sorted(Path(partial).iterdir()):
                path.chmod(0o666 & ~umask)  # MindSpore's are for the owner alone
                path.rename(out / path.name)
    except OSError as error:
        raise refused(error, f"{out}: cannot be written: {error.strerror}") from None
    return {part: len(source) for part, source in sources.items()}


def _write(source: FolderSource, path: Path, shards: int) -> None:
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path), shards)
    writer.add_schema(SCHEMA, describe(source.class_names))
    writer.add_index(["label", "position"])
    for first in range(0, len(source), RECORDS_AT_ONCE):
        writer.write_raw_data([_record(source, i) for i in range(first, min(first + RECORDS_AT_ONCE, len(source)))])
    writer.commit()


def _record(source: FolderSource, index: int) -> dict[str, object]:
    try:
        data = source.encoded(index)
        if not data:
            raise BadImage("the file is empty")
    except BadImage as error:
        raise UserError(f"{source.name(index)}: {error}; a MindRecord file cannot hold it, remove it") from None
    return {"image": data, "label": int(source.labels[index]), "position": index}


if __name__ == "__main__":
    sys.exit(main())
