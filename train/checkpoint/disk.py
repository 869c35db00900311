"""One checkpoint on disk: a folder ``step-00000100`` that is whole or absent.

Its files are written to a temporary folder beside it, each flushed to the disk (fsync), with their SHA-256 sums in
``SHA256SUMS`` (as ``sha256sum -c`` reads it); then one rename puts the folder in its place. Whatever is read is checked
against the sums first, and nothing outside the folder is ever opened: names with a path in them and links are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from train.rundir.folder import flush_folder, make_folder, write_file
from train.runtime.errors import StorageError, UserError
from train.runtime.files import NotAFile, read_file

SUMS_FILE = "SHA256SUMS"
LATEST, BEST = "latest", "best"
_PARTIAL, _DISCARDED = ".partial-", ".discarded-"
_STEP_NAME = re.compile(r"step-(\d{8,12})")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([a-z][a-z_-]*\.(?:json|safetensors))")


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written; the message names the folder and what is wrong."""


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def list_steps(root: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of every checkpoint below ``root``, whole or damaged, the newest first."""
    entries = root.iterdir() if root.is_dir() else ()
    found = [(int(match[1]), path) for path in entries if (match := _STEP_NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def write(root: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write ``files`` (name to content) as the checkpoint ``root/name``; return its path.

    Raises:
        StorageError: when the disk refuses; what was there before is untouched.
    """
    partial = root / (_PARTIAL + name)
    try:
        make_folder(root)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file_name, content in files.items():
            write_file(partial / file_name, content)
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {key}\n" for key, content in files.items())
        write_file(partial / SUMS_FILE, sums.encode())
        flush_folder(partial)
        os.rename(partial, root / name)
        flush_folder(root)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = next((path.name for _, path in list_steps(root)), "none")
        raise StorageError(
            f"{root / name}: cannot be written: {error.strerror or error}; the last checkpoint there is: {last}"
        ) from None
    return root / name


def read(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of a checkpoint, checked against its sum.

    Raises:
        DamagedCheckpoint: for a missing or changed file, a link, or sums that cannot be read. What the sums do not name
            is not opened.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedCheckpoint(f"{folder}: not a checkpoint folder")
    sums = _read_sums(folder)
    files = {name: _read_file(folder / name) for name in sums}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != sums[name]:
            raise DamagedCheckpoint(f"{folder}: {name} is damaged (its SHA-256 is not that in {SUMS_FILE})")
    return files


def is_whole(folder: Path) -> bool:
    """Whether every file of the checkpoint is there and unchanged."""
    try:
        read(folder)
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


def _read_file(path: Path) -> bytes:
    try:
        return read_file(path, links=False, most=sys.maxsize)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path.parent}: {path.name} is missing") from None
    except NotAFile as error:
        raise DamagedCheckpoint(f"{path.parent}: {path.name} {error.strerror}") from None
    except OSError as error:  # which says nothing of the content: the next try may read it
        raise StorageError(f"{path}: cannot be read: {error.strerror}; try again when it can") from None


def _read_sums(folder: Path) -> dict[str, str]:
    lines = _read_file(folder / SUMS_FILE).decode("utf-8", errors="replace").splitlines()
    matches = [_SUM_LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        raise DamagedCheckpoint(f"{folder}: {SUMS_FILE} is damaged")
    return {match[2]: match[1] for match in matches if match}
