"""Writes checkpoints on rank 0, at once or in the background."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from train.checkpoint import disk
from train.checkpoint.card import ModelCard
from train.checkpoint.saved import Description, to_files
from train.checkpoint.state import State


class Writer:
    """Writes below ``root`` and keeps the newest ``keep`` checkpoints and the best.

    With ``background`` a thread writes while training goes on, at most one checkpoint at a time: the next
    :meth:`write` and :meth:`wait` first wait for the one before, and raise its error.
    """

    def __init__(self, root: Path, *, keep: int, background: bool, card: ModelCard | None = None):
        self.root = root
        self.keep = keep
        self.card = card
        """What each saved model says of itself."""
        self.written: list[Path] = []
        """Checkpoints that are whole on disk, the latest last; whoever is told of one takes it out."""
        self._thread = ThreadPoolExecutor(1) if background else None
        self._running: Future[None] | None = None

    def write(self, description: Description, state: State, best: int | None) -> None:
        """Write one checkpoint; ``best`` is the step of the best state saved so far.

        Raises StorageError when this checkpoint, or the one before in the background, cannot be written."""
        self.wait()
        if self._thread is None:
            self._write(description, state, best)
        else:
            self._running = self._thread.submit(self._write, description, state, best)

    def wait(self) -> None:
        """Wait until nothing is being written; raise the error of what was."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def mark_best(self, step: int) -> None:
        """Let ``best`` stand for a state that was saved before it was evaluated."""
        self.wait()
        if (self.root / disk.step_name(step)).is_dir():
            disk.point(self.root, disk.BEST, disk.step_name(step))

    def _write(self, description: Description, state: State, best: int | None) -> None:
        name = disk.step_name(description.step)
        disk.write(self.root, name, to_files(description, state, self.card))
        disk.point(self.root, disk.LATEST, name)
        if best == description.step:
            disk.point(self.root, disk.BEST, name)
        self.written.append(self.root / name)
        disk.prune(self.root, self.keep, None if best is None else disk.step_name(best))
