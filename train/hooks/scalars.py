"""Scalars of a run: what is measured at each update, and where it is written."""

from __future__ import annotations

import json
import math
import os
from typing import BinaryIO

from train.hooks.base import Hook, RunState

METRICS_FILE = "metrics.jsonl"


class TrainScalars(Hook):
    """Measure loss, accuracy, learning rate, norms and speed every ``every`` updates.

    The first update of a process compiles the graph; its time is a figure of its own and in no other.
    For a watched layer, ``update/<layer>/predicted_l2`` is lr·‖v‖, to be compared with the measured ``delta_l2``.
    """

    def __init__(self, every: int = 1):
        self.every = every
        self._compiled = False

    def on_train_step_end(self, run: RunState) -> None:
        first, self._compiled = not self._compiled, True
        if run.result is None or run.step % self.every:
            return
        for layer, move in run.result.moves.items():
            run.scalars.update(
                {
                    f"update/{layer}/delta_l2": move.delta,
                    f"update/{layer}/weight_l2": move.weight,
                    f"update/{layer}/velocity_l2": move.velocity,
                    f"update/{layer}/predicted_l2": run.result.lr * move.velocity,
                    f"update/{layer}/ratio": move.delta / move.weight if move.weight else 0.0,
                }
            )
        whole = run.step_seconds + run.data_seconds
        run.scalars.update(
            {
                "train/loss": run.result.loss,
                "train/lr": run.result.lr,
                "train/top1": run.result.top1,
                "train/grad_norm": run.result.grad_norm,
            }
        )
        if first:
            run.scalars["perf/first_update_s"] = run.step_seconds
            return
        run.scalars.update(
            {
                "perf/images_per_sec": run.global_batch / whole,
                "perf/step_ms": 1e3 * run.step_seconds,
                "perf/data_wait": run.data_seconds / whole,
            }
        )


class MetricsFile(Hook):
    """Append every logged scalar to ``metrics.jsonl``: one flat object a line, floats that read back exactly.

    A value that is not finite is written as the strings "nan", "inf" or "-inf", so that every line is standard JSON.
    """

    def on_train_begin(self, run: RunState) -> None:
        if run.rank == 0:
            self._file = open(run.run_dir / METRICS_FILE, "ab")  # noqa: SIM115, closed at the end
            keep_lines(self._file, run.logged_bytes)
            run.logged_bytes = self._file.tell()

    def on_scalars(self, run: RunState) -> None:
        if run.rank == 0:
            values = {key: value if math.isfinite(value) else str(value) for key, value in run.scalars.items()}
            self._file.write(json.dumps({"step": run.step, **values}).encode() + b"\n")
            self._file.flush()
            run.logged_bytes = self._file.tell()

    def on_save(self, run: RunState) -> None:
        if run.rank == 0:
            os.fsync(self._file.fileno())

    def on_train_end(self, run: RunState) -> None:
        if run.rank == 0:
            self._file.close()


def keep_lines(file: BinaryIO, length: int) -> None:
    """Cut an open file behind ``length`` bytes, or behind its last whole line where it is shorter than that."""
    with open(file.name, "rb") as reader:
        kept = reader.read(length)
    file.truncate(kept.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
