"""The folder of a run: the names of what stands in it, who may write to it, and its configuration."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schedules import Schedule
from train.recipe.read import parse_config, read_recipe, to_text
from train.recipe.sections import RunConfig
from train.rundir.made_here import references, remember
from train.runtime.errors import StorageError, UserError

CONFIG_FILE = "config.yaml"
SCHEDULE_FILE = "schedule.npz"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = "lock"
SUFFIXES = (".yaml", ".npz", ".jsonl", ".json", ".md", ".png")
SNAPSHOTS = "snapshots"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
COMPARISON = "comparison"
HEARTBEATS = "heartbeats"
EXPORTS = "exports"
PROFILE = "profile"
TRACES = (CONFIG_FILE, SCHEDULE_FILE, METRICS_FILE, SNAPSHOTS, CHECKPOINTS, TENSORBOARD, COMPARISON)
"""What only a run leaves; a launcher may make the folder and its logs before."""


def of_rank(rank: int) -> str:
    """Return the path of what a rank has of its own: many files in one folder are slow on a shared file system."""
    return f"{rank // 100:02}/rank-{rank}"


class RunFolder:
    """``runs/<name>/``, written by rank 0 of one run at a time."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None
        self._inode = (0, 0)

    def used(self) -> bool:
        """Whether it holds anything of a run: a file that was lost must not turn a run into an empty folder; or is a
        link, which holds what nobody knows."""
        return self.path.is_symlink() or any(os.path.lexists(self.path / name) for name in TRACES)

    def claim_if_used(self) -> bool:
        """Whether the folder already holds a run; if so, it is this process's own from now on.

        Raises:
            UserError: when a live run is using it, or something in it is a link.
            OSError: when it cannot be read or written.
        """
        if not self.used():
            return False
        refuse_links(self.path, but=CHECKPOINTS)
        self.claim()
        return True

    def write_plan(self, schedule: Schedule, config: Mapping[str, Any], versions: dict[str, str]) -> None:
        """Write the schedule and the resolved configuration: what the run is, from its start."""
        content = io.BytesIO()
        schedule.write(content)
        replace_file(self.path / SCHEDULE_FILE, content.getvalue())
        remember(self.path, [value for _, value in references(config)])
        replace_file(self.path / CONFIG_FILE, to_text({**config, "versions": versions}).encode())
        flush_folder(self.path.parent)

    def remember(self) -> None:
        """Remember which folder stands at the path, for :meth:`check_in_place`; every rank, once it is prepared."""
        found = os.stat(self.path)
        self._inode = found.st_dev, found.st_ino

    def refuse_used(self) -> None:
        if self.used():
            raise UserError(
                f"{self.path} already holds a run; continue it with resume=auto, choose another with name=…, or move "
                "that folder away"
            )

    def check_in_place(self) -> None:
        """Notice that the folder was moved or removed, so that files would go to another run's, or nowhere.

        Raises:
            StorageError: when what stands at the path is not what was prepared.
        """
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}; it was there when the run began") from None
        if self._inode != (found.st_dev, found.st_ino):
            raise StorageError(f"{self.path}: was replaced by another folder; this run writes nothing more to it")

    def claim(self) -> None:
        """Take the folder's lock, which ends with this process, however it ends."""
        if self._lock is not None:
            return
        lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)  # open as long as the run
        try:
            # Not flock: that would stay with a child process that outlives this one.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(lock)
            raise UserError(f"{self.path} is in use by {owner}; wait for it, or choose another with name=…") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._lock = lock


def refuse_links(folder: Path, *, but: str = "") -> None:
    """Raise a :class:`UserError` where ``folder`` or anything in it is a link, which could lead out of a run, a pipe,
    which would be waited for, or a folder that is named as a file of a run.

    Args:
        but: a folder in it that is not looked into: checkpoints are told apart where they are read.
    """
    inside = [folder]
    if not folder.is_symlink():
        for place, folders, files in os.walk(folder):
            inside += [Path(place, name) for name in (*folders, *files)]
            if but in folders and Path(place) == folder:
                folders.remove(but)  # not walked
    for path in inside:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:  # not made yet, as before the first export, or just removed
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            what = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
            raise UserError(f"{path} is {what}; a run folder cannot hold one, choose another with name=…")
        of_a_file = path.suffix in SUFFIXES or path.name == LOCK_FILE or path.parent.parent.name == HEARTBEATS
        if stat.S_ISDIR(mode) and of_a_file:
            raise UserError(f"{path} is a folder where a run has a file; choose another run folder with name=…")


def make_folder(path: Path, *, parents: bool = False) -> None:
    """Make a folder of a run unless it is there, and bring its name to the disk.

    Args:
        parents: make the folders above it, too; within a run they must be there, or the run is no longer in its place.

    Raises:
        OSError: also where a link stands there.
    """
    if parents and not path.parent.is_dir():
        make_folder(path.parent, parents=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        flush_folder(path.parent)
    if path.is_symlink() or not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Is not a folder, or is a link to one", str(path))


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a new file and bring it to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file that a reader, and a machine that stops at any moment, finds whole: the new one or the old."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    write_file(partial, content)
    os.replace(partial, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_run_config(run_dir: Path) -> RunConfig:
    """Read back the configuration that a run left in its folder. Nothing that it names is imported."""
    return parse_config(run_dir / CONFIG_FILE, read_config(run_dir))


def read_config(run_dir: Path) -> dict[str, Any]:
    """Return the tree of that configuration as it is stored."""
    tree = read_recipe(run_dir / CONFIG_FILE, missing=f"{run_dir} is not a run folder; give runs/<name>")
    tree.pop("versions", None)
    return tree
