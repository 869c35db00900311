"""How far the run is, on rank 0: a bar on a terminal, plain lines now and then elsewhere (a log, msrun's output)."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from train.hooks.base import Hook, RunState

SECONDS_BETWEEN_LINES = 5.0


class Progress(Hook):
    """Show step, loss, learning rate, images/s and the time left."""

    def on_train_begin(self, run: RunState) -> None:
        self._started = self._shown = time.monotonic()
        self._first = run.step
        self._bar = None
        if run.rank == 0 and sys.stdout.isatty():
            self._bar = tqdm(total=run.total_steps, initial=run.step, unit="step", file=sys.stdout, dynamic_ncols=True)

    def on_scalars(self, run: RunState) -> None:
        if run.rank != 0:
            return
        if "val/top1" in run.scalars:
            self._say(
                f"step {run.step}: held-out top1 {run.scalars['val/top1']:.2%}, loss {run.scalars['val/loss']:.4f}"
            )
        if "train/loss" in run.scalars:
            self._show_update(run)

    def on_train_end(self, run: RunState) -> None:
        if self._bar is not None:
            self._bar.close()

    def _show_update(self, run: RunState) -> None:
        done = run.step + 1
        words = (
            f"loss {run.scalars['train/loss']:.4f}  lr {run.scalars['train/lr']:.4f}  "
            f"{run.scalars['perf/images_per_sec']:.0f} images/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if done == self._first + 1:
            self._started = now  # the first update compiles: it says nothing about the others
        if now - self._shown >= SECONDS_BETWEEN_LINES or done in (self._first + 1, run.total_steps):
            self._shown = now
            self._say(f"step {done}/{run.total_steps}  {words}{self._time_left(run, done, now)}")

    def _time_left(self, run: RunState, done: int, now: float) -> str:
        timed = done - self._first - 1
        if not timed or done == run.total_steps:
            return ""
        return f"  {tqdm.format_interval((now - self._started) / timed * (run.total_steps - done))} left"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
