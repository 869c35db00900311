"""The whole loop, with all hooks on, against a bare one in the same processes: blocks of updates alternate.

The run is a real one: ``python -m train`` through msrun with TensorBoard, the figures of every update, the ranks'
figures, the replica check, the watchdog, measured layers and snapshots. The hook below stops it now and then to make as
many bare updates with the batch that is just there: bare reads no data at all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence

from tests.benchmarks.speed.bare import bare_update
from tests.benchmarks.speed.measure import report, run_job
from tests.jobs import DIGITS
from train.hooks.base import Hook
from train.hooks.runstate import RunState

BLOCK, READING_BLOCK = 8, 50
OURS, BARE = "the whole loop", "bare TrainOneStepCell"


class Alternate(Hook):
    """Time blocks of our updates, with all that surrounds them, and of bare updates."""

    def on_train_begin(self, run: RunState) -> None:
        assert run.config is not None
        self.bare = bare_update(run.total_steps, run.config.model.name)
        self.seconds: dict[str, list[float]] = {BARE: [], OURS: []}
        self.began = time.perf_counter()

    def on_state_complete(self, run: RunState) -> None:
        if run.step % BLOCK or run.batch is None:
            return
        middle = time.perf_counter()
        for _ in range(BLOCK):
            self.bare(run.batch)
        end = time.perf_counter()
        if run.step > BLOCK:  # the first block compiles
            self.seconds[OURS].append((middle - self.began) / BLOCK)
            self.seconds[BARE].append((end - middle) / BLOCK)
        self.began = time.perf_counter()

    def on_train_end(self, run: RunState) -> None:
        if run.rank == 0:
            report(self.seconds)


LATE, AT_ONCE = "results read an update later", "results read at once"


class AlternateReading(Hook):
    """Time blocks of updates whose results are read at once, since this hook wants each state, and of others."""

    def on_train_begin(self, run: RunState) -> None:
        self.seconds: dict[str, list[float]] = {AT_ONCE: [], LATE: []}
        self.began = time.perf_counter()

    def wants_state(self, run: RunState) -> bool:
        return run.step // READING_BLOCK % 2 == 1

    def on_state_complete(self, run: RunState) -> None:
        if run.step % READING_BLOCK:
            return
        now = time.perf_counter()
        if run.step > 2 * READING_BLOCK:  # the first blocks compile
            name = LATE if run.step // READING_BLOCK % 2 else AT_ONCE
            self.seconds[name].append((now - self.began) / READING_BLOCK)
        self.began = now

    def on_train_end(self, run: RunState) -> None:
        if run.rank == 0:
            report(self.seconds)


def measure_reading(ranks: int, blocks: int) -> dict[str, list[float]]:
    """Return the seconds of an update in each block, of both ways to read results: digits, 8 images an update."""
    hook = "hooks=[tests.benchmarks.speed.loop:AlternateReading]"
    small = ["data.source=digits", "data.image_size=8", "data.global_batch=8", "model.options={depths: [1, 1, 1]}"]
    quiet = ["snapshots.layers=[]", "snapshots.steps=[]"]
    with tempfile.TemporaryDirectory() as folder:
        return run_job(ranks, train_job(folder, READING_BLOCK * 2 * (blocks + 1), hook, *small, *quiet))


def train_job(folder: str, updates: int, *settings: str, module: str = "train") -> list[str]:
    """Return the train command of a run of ``updates`` on noise, with everything on that a run may have on.

    Args:
        module: that takes its place: itself, with a clock in it.
    """
    return [
        *("-m", module, "--config", str(DIGITS), f"runs_dir={folder}", "name=speed"),
        *("data.source=synthetic", "data.image_size=32", "data.synthetic_classes=10", "data.global_batch=128"),
        *("schedule.warmup=5", f"schedule.total={updates}", f"snapshots.steps=[5,{updates - 3}]", *settings),
    ]


def measure_loop(
    ranks: int, blocks: int, settings: Sequence[str] = (), folder: str | None = None
) -> dict[str, list[float]]:
    """Return the seconds of an update in each block, of both loops; the run stays in ``folder``, if one is given."""
    if folder is None:
        with tempfile.TemporaryDirectory() as folder:
            return measure_loop(ranks, blocks, settings, folder)
    hook = "hooks=[tests.benchmarks.speed.loop:Alternate]"
    return run_job(ranks, train_job(folder, BLOCK * (blocks + 1), hook, *settings))
