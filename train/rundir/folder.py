"""The folder of a run: the names of what stands in it, who may write to it, and its configuration."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from schedules import Schedule
from train import distributed
from train.config import RunConfig, parse_config, to_yaml
from train.errors import UserError
from train.recipe import read_recipe

CONFIG_FILE = "config.yaml"
SCHEDULE_FILE = "schedule.npz"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = "lock"
SNAPSHOTS = "snapshots"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
COMPARISON = "comparison"
HEARTBEATS = "heartbeats"


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
        self.refuse_links()
        if self.config.resume != "never":
            self.claim()
        return True

    def log(self, message: str) -> None:
        if distributed.rank() == 0:
            print(message, flush=True)

    def write_plan(self, schedule: Schedule, versions: dict[str, str]) -> None:
        """Write the schedule and the resolved configuration: what the run is, from its start."""
        schedule.save(self.path / SCHEDULE_FILE)
        _replace_text(self.path / CONFIG_FILE, to_yaml(self.config, versions=versions))

    def refuse_used(self) -> None:
        if (self.path / CONFIG_FILE).exists():
            raise UserError(
                f"{self.path} already holds a run; continue it with resume=auto, choose another with name=…, or move "
                "that folder away"
            )

    def refuse_links(self) -> None:
        """A link could lead out of the folder."""
        inside = self.path.iterdir() if self.path.is_dir() and not self.path.is_symlink() else []
        for path in (self.path, *inside):
            if path.is_symlink():
                raise UserError(f"{path} is a link; a run folder holds none, choose another with name=…")

    def claim(self) -> None:
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


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def load_run_config(run_dir: Path) -> RunConfig:
    """Read back the configuration that a run left in its folder."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{run_dir}: no run folder, it has no {CONFIG_FILE}")
    tree = read_recipe(path)
    tree.pop("versions", None)
    return parse_config(path, tree)
