"""A finished run as its folder tells of it: the schedule, and the snapshots of its updates. No MindSpore."""

from __future__ import annotations

import io
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schedules import Schedule
from train.recipe.sections import RunConfig
from train.rundir.folder import CONFIG_FILE, SCHEDULE_FILE, SNAPSHOTS, load_run_config
from train.rundir.snapshots import FILE_NAME, Snapshot, list_snapshots, parse
from train.runtime.errors import StorageError, UserError, refused
from train.runtime.files import open_file, read_file

# What np.load and the zip reader beneath it raise on a file that is cut short or overwritten.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError, MemoryError, NotImplementedError)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder, its schedule, and its snapshot files by step and rank, both ascending."""

    path: Path
    schedule: Schedule
    files: Mapping[int, Mapping[int, Path]]
    config: RunConfig | None = None
    """As the run left it; None where the folder holds none."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, ascending; at least one."""
        return tuple(self.files)

    def load(self, step: int, rank: int | None = None) -> Snapshot:
        """The snapshot of ``step`` on ``rank`` (None: the lowest rank there). Raises UserError on damage."""
        ranks = self.files[step]
        path = ranks[min(ranks) if rank is None else rank]
        snapshot = load_snapshot(path)
        if snapshot.kernel_step >= self.schedule.total_steps:
            raise UserError(f"{path}: of the kernel's step {snapshot.kernel_step}, past the end of the run's schedule")
        return snapshot


def open_run(path: str | Path) -> FinishedRun:
    """Opens a run folder; reads its schedule and lists its snapshots, none of which is loaded yet.

    Raises UserError if the folder does not exist, is not a run folder, holds no snapshots, or holds a
    snapshot of a step past the end of its schedule.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a finished run, runs/<name>")
    schedule = load_schedule(folder)
    files = list_snapshots(folder / SNAPSHOTS)
    if not files:
        raise UserError(
            f"{folder}: no snapshots ({SNAPSHOTS}/step-*.rank-*.npz); run it again with snapshots of at least one step"
        )
    if max(files) >= schedule.total_steps:
        raise UserError(
            f"{folder}: has a snapshot of step {max(files)}, but its schedule ends with step "
            f"{schedule.total_steps - 1}; remove what is left there of another run"
        )
    config = load_run_config(folder) if os.path.lexists(folder / CONFIG_FILE) else None
    return FinishedRun(folder, schedule, files, config)


def load_schedule(run_dir: Path) -> Schedule:
    """Return the schedule of a run. Raises UserError or StorageError, naming the file, where it cannot be read."""
    path = run_dir / SCHEDULE_FILE
    try:
        with open_file(path) as file:
            return Schedule.load(file)
    except FileNotFoundError:
        raise UserError(f"{run_dir}: not a run folder (holds no {SCHEDULE_FILE}); give runs/<name>") from None
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{_one_line(error)}; run it again") from error


def load_snapshot(path: Path) -> Snapshot:
    """Loads one snapshot file (``np.savez``, loaded with ``allow_pickle=False``).

    Raises UserError, naming the file, if it cannot be read (StorageError where the disk fails), lacks an entry, holds
    another type or shape than it should, or is of another step or rank than its name says.
    """
    try:
        content = read_file(path, most=sys.maxsize)  # all of it first: an error of the disk's is no damage
    except OSError as error:
        words = f"{path}: cannot be read: {error.strerror}; try again when it can"
        # It was there when the folder was listed: with the folder it was moved away, or removed.
        raise StorageError(words) if isinstance(error, FileNotFoundError) else refused(error, words) from None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as entries:
            if sum(one.file_size for one in entries.zip.infolist()) > len(content):  # np.savez packs nothing
                raise ValueError("it would unpack to more than its size")
            snapshot = parse(path.name, entries)
        match = FILE_NAME.fullmatch(path.name)
        if match and (snapshot.step, snapshot.rank) != (int(match[1]), int(match[2])):
            raise ValueError(f"it holds step {snapshot.step} of rank {snapshot.rank}")
    except _DAMAGE as error:
        raise UserError(
            f"{path}: damaged snapshot ({_one_line(error)}); remove it or run again from the last checkpoint before it"
        ) from error
    return snapshot


def require_same_layers(first: Snapshot, other: Snapshot) -> None:
    """Raises UserError unless both snapshots are of the same layers of the same shapes, in one order."""
    mine, theirs = (
        [f"{layer.name}{list(layer.W_start.shape)}" for layer in snapshot.layers] for snapshot in (first, other)
    )
    if mine != theirs:
        raise UserError(
            f"{other.file} holds {', '.join(theirs)}, but {first.file} holds {', '.join(mine)}; "
            "a comparison needs the same layers at every step and rank"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
