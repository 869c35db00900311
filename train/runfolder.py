"""The folder of a run: who may write to it, and what stands in it from the start."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from schedules import Schedule
from train import checkpoint, distributed
from train.checkpoint.folder import list_steps, set_aside, sweep
from train.config import CONFIG_FILE, RunConfig, load_run_config, to_yaml
from train.errors import UserError
from train.hooks.snapshots import FOLDER as SNAPSHOTS

SCHEDULE_FILE = "schedule.npz"
LOCK_FILE = "lock"
PACKAGES = ("mindspore", "numpy", "pyyaml", "tensorboardX")


class RunFolder:
    """``runs/<name>/``, written by rank 0 of one run at a time."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.path = config.run_dir
        self._lock: TextIO | None = None

    def claim_if_used(self) -> bool:
        """Whether the folder already holds a run; if so, it is this process's own from now on.

        Raises:
            UserError: when a live run is using it, or something in it is a link.
            OSError: when it cannot be read or written.
        """
        if not self.path.is_symlink() and not (self.path / CONFIG_FILE).exists():
            return False
        self._refuse_links()
        if self.config.resume != "never":
            self._claim()
        return True

    def prepare(self, schedule: Schedule, versions: dict[str, str], *, continued_at: int | None) -> None:
        """Make the folder, or take up the one that is continued, and write what the run is. Collective.

        Args:
            continued_at: the step at which the run in this folder goes on (None: the folder is new). Checkpoints
                after it are damaged and are renamed, so that their places are free.

        Raises:
            UserError: on every rank, when the folder cannot be written.
        """
        first = distributed.rank() == 0
        distributed.together(lambda: self._prepare(schedule, versions, continued_at) if first else None)

    def say(self, message: str) -> None:
        if distributed.rank() == 0:
            print(message, flush=True)

    def _prepare(self, schedule: Schedule, versions: dict[str, str], continued_at: int | None) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_links()
            self._claim()
            if continued_at is None:
                self.refuse_used()
            sweep(self.path / checkpoint.FOLDER)
            for step, folder in list_steps(self.path / checkpoint.FOLDER):
                if continued_at is not None and step > continued_at:
                    set_aside(folder)
            if continued_at is not None:
                self._make_room_for_snapshots(schedule, continued_at)
            schedule.save(self.path / SCHEDULE_FILE)
            _replace_text(self.path / CONFIG_FILE, to_yaml(self.config, versions=versions))
        except OSError as error:
            raise UserError(f"runs_dir={self.config.runs_dir}: cannot write {self.path}: {error.strerror}") from None

    def _make_room_for_snapshots(self, schedule: Schedule, continued_at: int) -> None:
        """Remove the snapshots that will be made again; set aside those that no longer compare with what follows.

        Those of another schedule or of other layers go to ``snapshots.before-00000050``, for the step 50.
        """
        snapshots = self.path / SNAPSHOTS
        for path in snapshots.glob("step-*.npz"):
            if int(path.name.removeprefix("step-").partition(".")[0]) >= continued_at:
                path.unlink()
        try:
            same = Schedule.load(self.path / SCHEDULE_FILE).fingerprint == schedule.fingerprint
            same = same and load_run_config(self.path).snapshots.layers == self.config.snapshots.layers
        except (OSError, ValueError, UserError):
            same = True  # unreadable: what the snapshots say of themselves is all there is
        if not same and any(snapshots.glob("*.npz")):
            aside = self.path / f"{SNAPSHOTS}.before-{continued_at:08d}"
            snapshots.rename(aside)
            self.say(f"schedule or layers changed: earlier snapshots are in {aside}")

    def refuse_used(self) -> None:
        if (self.path / CONFIG_FILE).exists():
            raise UserError(
                f"{self.path} already holds a run; continue it with resume=auto, choose another with name=…, or move "
                "that folder away"
            )

    def _refuse_links(self) -> None:
        """A link could lead out of the folder."""
        inside = self.path.iterdir() if self.path.is_dir() and not self.path.is_symlink() else []
        for path in (self.path, *inside):
            if path.is_symlink():
                raise UserError(f"{path} is a link; a run folder holds none, choose another with name=…")

    def _claim(self) -> None:
        """Take the folder's lock, which ends with this process, however it ends."""
        if self._lock is not None:
            return
        lock = open(self.path / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115, open as long as the run
        try:
            # Not flock: that would stay with a child process that outlives this one.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read(200).strip() or "another process"
            lock.close()
            raise UserError(f"{self.path} is in use by {owner}; wait for it, or choose another with name=…") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock


def versions(schedule: Schedule) -> dict[str, str]:
    """Return what the run is made with, for people and for a resumed run to compare."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "world_size": str(distributed.world_size()),
        "schedule_fingerprint": schedule.fingerprint,
    }


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
