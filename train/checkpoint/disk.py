"""One checkpoint on disk: a folder ``step-00000100`` that is whole or absent.

Its files are written to a temporary folder beside it, by each rank its own and by rank 0 the rest, each flushed to the
disk (fsync), with their SHA-256 sums in ``SHA256SUMS`` (as ``sha256sum -c`` reads it); then one rename puts the folder
in its place. Whatever is read is checked against the sums first, and nothing outside the folder is ever opened: other
names than those of a checkpoint, and links, are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from train.rundir.folder import flush_folder, make_folder, write_file
from train.runtime.errors import StorageError, UserError
from train.runtime.files import NotAFile, read_file

SUMS_FILE = "SHA256SUMS"
LATEST, BEST = "latest", "best"
_PARTIAL, _DISCARDED = ".partial-", ".discarded-"
_STEP_NAME = re.compile(r"step-(\d{8,12})")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([a-z][a-z_-]*\.(?:json|safetensors)|ranks/\d+/rank-\d+\.safetensors)")


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written; the message names the folder and what is wrong."""


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def list_steps(root: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of every checkpoint below ``root``, whole or damaged, the newest first."""
    entries = root.iterdir() if root.is_dir() else ()
    found = [(int(match[1]), path) for path in entries if (match := _STEP_NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def begin(root: Path, name: str, files: Iterable[str]) -> None:
    """Make the temporary folder of the checkpoint ``root/name``, and in it the folders for ``files``.

    Raises:
        StorageError: when the disk refuses; what was there before is untouched.
    """
    partial = root / (_PARTIAL + name)
    with _refusing(root, name):
        make_folder(root)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for folder in {(partial / file).parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)


def add(root: Path, name: str, file: str, content: bytes) -> str:
    """Write ``file`` of a checkpoint that was begun, on any rank; return its sum.

    Raises:
        StorageError: as :func:`begin`.
    """
    with _refusing(root, name):
        write_file(root / (_PARTIAL + name) / file, content)
    return hashlib.sha256(content).hexdigest()


def finish(root: Path, name: str, files: Mapping[str, bytes], sums: Mapping[str, str]) -> None:
    """Write ``files`` (name to content) of a checkpoint that was begun, and put it in its place.

    Args:
        sums: of the files that are in it already.

    Raises:
        StorageError: as :func:`begin`.
    """
    partial = root / (_PARTIAL + name)
    try:
        sums = {**sums, **{file: add(root, name, file, content) for file, content in files.items()}}
        add(root, name, SUMS_FILE, "".join(f"{found}  {file}\n" for file, found in sums.items()).encode())
        with _refusing(root, name):
            for place, _, _ in os.walk(partial):
                flush_folder(Path(place))
            os.rename(partial, root / name)
            flush_folder(root)
    except StorageError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def _refusing(root: Path, name: str) -> Iterator[None]:
    """Make a :class:`StorageError` of what the disk says while ``root/name`` is written."""
    try:
        yield
    except OSError as error:
        last = next((path.name for _, path in list_steps(root)), "none")
        raise StorageError(
            f"{root / name}: cannot be written: {error.strerror or error}; the last checkpoint there is: {last}"
        ) from None


def read(folder: Path, names: Collection[str], *, check: slice = slice(0)) -> dict[str, bytes]:
    """Return the content of those files of a checkpoint that ``names`` has, checked against their sums.

    Args:
        check: which of all its files to read and check, too, in the order of the sums.

    Raises:
        DamagedCheckpoint: for a missing or changed file, a link, or sums that cannot be read. What the sums do not name
            is not opened.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedCheckpoint(f"{folder}: not a checkpoint folder")
    sums, found = _read_sums(folder), {}
    checked = set(list(sums)[check])
    for name, expected in sums.items():
        if name in names or name in checked:
            content = _read_file(folder, name)
            if hashlib.sha256(content).hexdigest() != expected:
                raise DamagedCheckpoint(f"{folder}: {name} is damaged (its SHA-256 is not that in {SUMS_FILE})")
            if name in names:
                found[name] = content
    return found


def is_whole(folder: Path, check: slice = slice(None)) -> bool:
    """Whether every file of the checkpoint, or of those that ``check`` chooses, is there and unchanged."""
    try:
        read(folder, (), check=check)
    except DamagedCheckpoint:
        return False
    return True


def point(root: Path, link: str, name: str) -> None:
    """Let the link ``root/link`` (``latest`` or ``best``) stand for the checkpoint ``name``, in one step.

    It is for people: where the file system has no links, or a copy of the folder holds a folder there, it is left out.
    """
    partial = root / (_PARTIAL + link)
    with contextlib.suppress(OSError):
        partial.unlink(missing_ok=True)
        partial.symlink_to(name)
        os.replace(partial, root / link)


def prune(root: Path, keep: int, spare: str | None) -> None:
    """Remove old checkpoints but the newest ``keep`` (2 or more) and the one named ``spare``.

    All but the newest are older than one that this run was resumed from or has written: that one was whole, and damaged
    ones after it were renamed. So the last good ones always stay.
    """
    for _, folder in list_steps(root)[keep:]:
        if folder.name == spare:
            continue
        discarded = root / (_DISCARDED + folder.name)
        try:
            os.rename(folder, discarded)  # first out of sight, so that no reader ever meets half of it
        except OSError as error:
            raise StorageError(f"{folder}: cannot be removed: {error.strerror or error}") from None
        shutil.rmtree(discarded, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what a killed run left half-written or half-removed below ``root``."""
    for prefix in (_PARTIAL, _DISCARDED):
        for path in root.glob(prefix + "*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def set_aside(folder: Path) -> None:
    """Rename a damaged checkpoint, so that its place is free and its content can still be looked at."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.parent.resolve() != (folder.resolve() / name).parent:
        raise DamagedCheckpoint(f"{folder}: {name} is behind a link")
    try:
        return read_file(path, links=False, most=sys.maxsize)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{folder}: {name} is missing") from None
    except NotAFile as error:
        raise DamagedCheckpoint(f"{folder}: {name} {error.strerror}") from None
    except OSError as error:  # which says nothing of the content: the next try may read it
        raise StorageError(f"{path}: cannot be read: {error.strerror}; try again when it can") from None


def _read_sums(folder: Path) -> dict[str, str]:
    lines = _read_file(folder, SUMS_FILE).decode("utf-8", errors="replace").splitlines()
    matches = [_SUM_LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        raise DamagedCheckpoint(f"{folder}: {SUMS_FILE} is damaged")
    return {match[2]: match[1] for match in matches if match}
